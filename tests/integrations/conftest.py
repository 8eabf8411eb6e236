"""What tests inside engines share with tests of the commands: parties, processes and certificates."""

import importlib.util
import sys
from pathlib import Path

CLI = Path(__file__).parents[1] / "cli"
sys.path.append(str(CLI))

_spec = importlib.util.spec_from_file_location("cli_fixtures", CLI / "conftest.py")
_cli = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cli)
zygote, parties = _cli.zygote, _cli.parties

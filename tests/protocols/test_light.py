"""The protocol needs the standard library, numpy and cryptography, and imports nothing else."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
before = set(sys.modules)
import collabsecure_protocols
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
NEEDED = {"collabsecure_protocols", "numpy", "cryptography"}
CRYPTOGRAPHYS_OWN = {"_cffi_backend", "cffi", "_openssl"}


def test_importing_the_protocol_imports_numpy_and_cryptography_alone():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    found = set(json.loads(done.stdout))
    assert found >= NEEDED
    strangers = {name for name in found - NEEDED - CRYPTOGRAPHYS_OWN if name not in sys.stdlib_module_names}
    # Platform data of the standard library's sysconfig has a generated name.
    assert not {name for name in strangers if not name.startswith("_sysconfigdata")}
    assert done.stderr == ""

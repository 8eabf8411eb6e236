"""The session's second moments are found by their digests among other files, each time they are read."""

from dataclasses import replace

import numpy as np
import pytest
from light_session import LAMBDA, make_session

from collabsecure.agreement import second_moment_digest
from collabsecure.errors import BadFile
from collabsecure.statistics import SecondMoment
from collabsecure_cli.moments import SessionMoments

LIGHT = make_session(num_clients=3, layers=(1, 11))


def write(path, layer, *, scale=1.0, sample_size=100):
    moment = SecondMoment(total=LIGHT.moments[layer] * scale, count=128, sample_size=sample_size)
    name = path / f"transformer.h.{layer}.mlp.c_proj_float64_mom2_{sample_size}.npz"
    moment.save_npz(name, force=True)
    return name


@pytest.fixture
def weighted(tmp_path):
    """What a session of the folder's files agrees on: layer → C."""
    return {layer: SecondMoment.load_npz(write(tmp_path, layer)).weighted(LAMBDA) for layer in (1, 11)}


def moments(path, weighted):
    digests = {layer: second_moment_digest(moment) for layer, moment in weighted.items()}
    return SessionMoments(path, replace(LIGHT.agreement, second_moments=digests))


def test_every_layers_file_is_found_among_others(weighted, tmp_path):
    write(tmp_path, 1, scale=2.0, sample_size=50)
    (tmp_path / "notes.txt").write_text("mine")
    found, told = moments(tmp_path, weighted), []
    found.check(told.append)
    assert told == ["Checking the second moment of layer 1…", "Checking the second moment of layer 11…"]
    for layer, moment in weighted.items():
        np.testing.assert_array_equal(found[layer], moment)


def test_moment_that_is_missing_or_another_is_named_with_its_digest(weighted, tmp_path):
    with pytest.raises(BadFile, match=r"found no second moment of layer 1 .*--second-moment"):
        _ = moments(tmp_path / "nowhere", weighted)[1]
    write(tmp_path, 1, scale=2.0)
    with pytest.raises(BadFile, match=r"found transformer.*100.npz with digest [0-9a-f]{64}; expected the session's"):
        _ = moments(tmp_path, weighted)[1]


def test_layer_11_is_not_taken_for_layer_1(weighted, tmp_path):
    write(tmp_path, 1).unlink()
    with pytest.raises(BadFile, match="found no second moment of layer 1 "):
        _ = moments(tmp_path, weighted)[1]


def test_file_that_is_no_archive_is_named(weighted, tmp_path):
    write(tmp_path, 1).write_bytes(b"no archive")
    with pytest.raises(BadFile, match=r"transformer.h.1.mlp.c_proj_float64_mom2_100.npz"):
        moments(tmp_path, weighted).check(lambda _: None)


def test_file_that_is_replaced_after_it_was_checked_is_not_merged_with(weighted, tmp_path):
    found = moments(tmp_path, weighted)
    found.check(lambda _: None)
    write(tmp_path, 11, scale=3.0)
    with pytest.raises(BadFile, match="expected the session's second moment of layer 11"):
        _ = found[11]
    write(tmp_path, 11)
    np.testing.assert_array_equal(found[11], weighted[11])

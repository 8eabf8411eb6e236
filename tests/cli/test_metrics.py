"""/metrics as Prometheus reads it; what peers make up adds no time series."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from statuses import CLIENTS, STATUS, a_client, status

from collabsecure_cli.metrics import Metrics


def samples(metrics, seen=STATUS):
    body, kind = metrics.render(seen)
    assert kind.startswith("text/plain; version=")
    families = list(text_string_to_metric_families(body.decode()))
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_a_status_is_rendered_as_gauges():
    found = samples(Metrics())
    assert found["collabsecure_phase", ("phase", "MASKED_INPUT")] == 1
    assert found["collabsecure_phase", ("phase", "UNMASK")] == 0
    assert found["collabsecure_clients", ("standing", "waited for")] == 2
    assert found["collabsecure_clients", ("standing", "done")] == 0
    assert found["collabsecure_sum_index",] == 1
    assert found["collabsecure_sums",] == 5
    assert found["collabsecure_phase_left_seconds",] == 312
    assert found["collabsecure_running_seconds",] == 1834
    assert found["collabsecure_received_bytes_total",] == 257_609_458
    assert found["collabsecure_client_received_bytes_total", ("client", "2")] == 61_000_000
    assert found["collabsecure_over",] == found["collabsecure_finished",] == 0
    assert all(name.startswith("collabsecure_") for name, *_ in found)


def test_requests_and_refusals_are_counted():
    metrics = Metrics()
    for code in (200, 200, 403):
        metrics.request("GET", code, 0.05)
    metrics.refused("V06")
    found = samples(metrics)
    assert found["collabsecure_requests_total", ("code", "200"), ("method", "GET")] == 2
    assert found["collabsecure_request_seconds_bucket", ("le", "0.1"), ("method", "GET")] == 3
    assert found["collabsecure_refused_total", ("check", "V06")] == 1


def test_peers_cannot_make_up_labels_and_names_of_clients_are_not_told():
    metrics = Metrics()
    for number in range(50):
        metrics.request(f"M{number}", 405, 0.0)
        metrics.refused(f'x"{number}\n')
    found = samples(metrics)
    assert found["collabsecure_requests_total", ("code", "405"), ("method", "other")] == 50
    assert found["collabsecure_refused_total", ("check", "other")] == 50
    assert b"alice" not in metrics.render(STATUS)[0]


def test_many_clients_are_told_in_total_only():
    many = status(clients=tuple(a_client(number, "x") for number in range(1, 102)))
    found = samples(Metrics(), many)
    assert not [name for name, *_ in found if name == "collabsecure_client_received_bytes_total"]
    assert found["collabsecure_clients", ("standing", "arrived")] == 101


@pytest.mark.parametrize("left", [None, 3.0])
def test_no_deadline_is_no_sample(left):
    assert (("collabsecure_phase_left_seconds",) in samples(Metrics(), status(seconds_left=left))) is (left is not None)


def test_two_aggregators_in_one_process_do_not_mix():
    first, second = Metrics(), Metrics()
    first.refused("V01")
    assert ("collabsecure_refused_total", ("check", "V01")) not in samples(second)
    assert len(CLIENTS) == 5

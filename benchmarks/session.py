"""A whole session over loopback with TLS, of GPT2-XL's shape: time, memory, disk, and bytes on the wire.

`python -m benchmarks.session` takes some minutes, 4 GB of memory and 5 GB of disk; with `--one-shot`, one sum for all
layers, 10 GB of disk. The aggregator is `collabsecure aggregate`, each client a process with the real participant and
connection. Their statistics are K Kᵀ and R Kᵀ of random K and R: there is no model. Needs Linux's /proc.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from benchmarks.report import Figure, show
from benchmarks.session_run import Course, Spans, beyond, run
from benchmarks.session_world import Shape

WIRE_BAR = 1.01  # × bits/8 × unique values, all that a client sends
UPLOAD_BAR = 64.0  # MB that a client needs while it uploads, beside its mapped statistics
DISTANCE_BAR = 1e-8  # of Δ from the plain sums' one, through 48 bits
FLAT_BAR = 1.1  # × the aggregator's memory with the fewest clients

GPT2_XL = Shape(d_in=6400, d_out=1600, layers=5, clients=3, flow="layer-synchronous")
GPT2 = Shape(d_in=3072, d_out=768, layers=1, clients=3, flow="layer-synchronous")
QUICK = Shape(d_in=768, d_out=192, layers=2, clients=3, flow="layer-synchronous")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.session", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=GPT2_XL.layers, help="of GPT2-XL's width (default: 5)")
    parser.add_argument("--one-shot", action="store_true", help="one sum for all layers, and nothing else")
    parser.add_argument(
        "--clients", type=int, nargs="*", default=[3, 9], help="of GPT-2's width, for the growth of memory; may be none"
    )
    parser.add_argument("--quick", action="store_true", help="two layers of 768, and no more clients than three")
    arguments = parser.parse_args(argv)
    shape = QUICK if arguments.quick else replace(GPT2_XL, layers=arguments.layers)
    if arguments.one_shot:
        shape = replace(shape, flow="one-shot")
    missed = present(run(shape))
    if arguments.clients and not arguments.quick and not arguments.one_shot:
        missed |= growth([run(replace(GPT2, clients=clients)) for clients in arguments.clients])
    return missed


def present(course: Course) -> int:
    """Print one session's figures."""
    shape = course.shape
    return show(
        f"{shape.clients} clients, {shape.layers} layers {shape.d_in} wide, d_out {shape.d_out}, {shape.flow}: "
        f"{shape.num_values / 1e6:.0f}M values a client, 48 bits, {course.num_sums} sum{'s' * (course.num_sums > 1)}; "
        f"means over sums and clients, (the longest)",
        [*times(course), *cores(course), *memory(course), *volumes(course)],
    )


def times(course: Course) -> list[Figure]:
    """Wall time, in all and by part."""
    clients, packed = course.clients, 6 * course.shape.num_values / course.num_sums
    makes = [span for client in clients for span in client.spans("statistics", "upload")]
    uploads = [span for client in clients for span in client.spans("upload", "uploaded")]
    merging = course.said("Merging")
    closing = [(last, merge) for (_, last), merge in zip(course.uploading, merging, strict=True)]
    back = [
        (merged, applied)
        for client in clients
        for merged, applied in zip(
            course.merged_at, (at for what, at, _ in client.entries if what == "applied"), strict=True
        )
    ]
    rate = packed / mean(stop - start for start, stop in uploads)
    waiting = sum(client.seconds_in_requests for client in clients) / sum(stop - start for start, stop in uploads)
    return [
        Figure(what="aggregator's start, C of each layer checked", value=f"{course.start_seconds:.1f} s"),
        Figure(what="the session, first client's start to last one's end", value=f"{course.seconds:.1f} s"),
        Figure(what="  a client makes a sum's statistics and keeps them", value=seconds(makes)),
        Figure(what="  a client uploads a sum", value=f"{seconds(uploads)}, {rate / 1e6:.0f} MB/s each"),
        Figure(what="    of that, waiting for answers", value=f"{100 * waiting:.0f} %"),
        Figure(what="  from the last chunk to the sum", value=seconds(closing)),
        Figure(what="  merge of a sum", value=seconds(list(zip(merging, course.merged_at, strict=True)))),
        Figure(what="  Δ of a sum comes back and is taken over", value=seconds(back)),
    ]


def cores(course: Course) -> list[Figure]:
    """What the cores did while anybody uploaded."""
    used = course.cores_while(course.uploading)
    shares = ", ".join(f"{name} {100 * one / sum(used.values()):.0f} %" for name, one in used.items())
    values = course.shape.num_values * course.shape.clients
    sending = sum(client.cpu_in_requests for client in course.clients)
    each = {
        "a client: encoding, masks, hashes, signatures": sum(c.cpu("upload", "uploaded") for c in course.clients)
        - sending,
        "a client: HTTP, TLS": sending,
        "aggregator's event loop: HTTP, TLS": used["event loop"],
        "aggregator's engine: hashes, signatures, disk, sum": used["engine"],
    }
    return [
        Figure(what="  cores meanwhile", value=shares),
        *(Figure(what=f"  CPU, {who}", value=f"{spent / values * 1e9:.0f} ns a value") for who, spent in each.items()),
    ]


def memory(course: Course) -> list[Figure]:
    """Peaks, and what is beyond that which must be held."""
    shape, clients, megabyte = course.shape, course.clients, 1e6
    summed = shape.layers // course.num_sums  # layers in a sum
    held = course.running_sum_bytes + 8 * shape.d_in**2 + shape.statistics_bytes  # sum; C; ΣG and ΣX
    everything: Spans = [(course.looks[0].time, course.looks[-1].time)]
    extra = beyond(course.looks, everything, course.base) - held
    making = max(client.most("statistics", "upload") for client in clients) - shape.statistics_bytes
    uploading = max(client.most("first chunk", "uploaded") for client in clients)
    back = max(client.most("uploaded", "applied") for client in clients) - summed * shape.delta_bytes
    return [
        Figure(
            what="aggregator, most memory (VmHWM)", value=f"{max(one.peak for one in course.looks) / megabyte:.0f} MB"
        ),
        Figure(
            what="  without files, beyond its start, sum, C, ΣG, ΣX",
            value=f"{extra / megabyte:.0f} MB",
            ratio=extra / held,
            baseline=f"those, {held / megabyte:.0f} MB",
        ),
        Figure(
            what="a client, most memory, mapped statistics included (VmHWM)",
            value=f"{max(client.peak for client in clients) / megabyte:.0f} MB",
        ),
        Figure(what="  making a layer: beyond its start, K Kᵀ, R Kᵀ", value=f"{making / megabyte:.0f} MB"),
        Figure(
            what="  uploading: without files, beyond its start",
            value=f"{uploading / megabyte:.1f} MB",
            ratio=uploading / megabyte,
            baseline="1 MB",
            bar=UPLOAD_BAR,
        ),
        Figure(what="  taking Δ over: beyond its start, Δ of the sum", value=f"{back / megabyte:.0f} MB"),
    ]


def volumes(course: Course) -> list[Figure]:
    """Bytes on the wire and on the disk; and whether the result is right."""
    shape = course.shape
    packed, deltas = 6 * shape.num_values, shape.layers * shape.delta_bytes
    sent, received = (max(getattr(client, what) for client in course.clients) for what in ("sent", "received"))
    uploads = shape.clients * packed / course.num_sums
    return [
        Figure(
            what="a client sends, HTTP and TLS included",
            value=f"{sent / 1e6:.2f} MB ({sent / packed:.4f})",
            ratio=sent / packed,
            baseline="bits/8 × values",
            bar=WIRE_BAR,
        ),
        Figure(
            what="a client receives",
            value=f"{received / 1e6:.1f} MB",
            ratio=received / deltas,
            baseline="its Δ, float64",
        ),
        Figure(
            what="most disk in the aggregator's state folder",
            value=f"{course.disk / 1e6:.0f} MB",
            ratio=course.disk / uploads,
            baseline="one sum's uploads",
        ),
        Figure(
            what="Δ against the plain sums', the worst layer",
            value=f"{course.distance:.1e}",
            ratio=course.distance / DISTANCE_BAR,
            baseline=f"{DISTANCE_BAR:g}",
            bar=1.0,
        ),
    ]


def growth(courses: Sequence[Course]) -> int:
    """Print the aggregator's memory by the number of clients."""
    fewest = max(look.peak for look in courses[0].looks)
    figures = []
    for course in courses:
        clients, peak = course.shape.clients, max(look.peak for look in course.looks)
        uploading = beyond(course.looks, course.uploading, course.base) - course.running_sum_bytes
        figures += [
            Figure(
                what=f"{clients} clients: aggregator's most memory (VmHWM)",
                value=f"{peak / 1e6:.0f} MB",
                ratio=peak / fewest,
                baseline=f"with {courses[0].shape.clients} clients",
                bar=FLAT_BAR,
            ),
            Figure(what="  while they upload, beyond its start and the sum", value=f"{uploading / 1e6:.1f} MB"),
        ]
    shape = courses[0].shape
    upload = 6 * shape.num_values / 1e6
    return show(f"The same with one layer {shape.d_in} wide, {upload:.0f} MB a client", figures)


def seconds(spans: Spans) -> str:
    """The mean length of some spans, and the longest."""
    lengths = [stop - start for start, stop in spans]
    return f"{mean(lengths):.1f} s ({max(lengths):.1f})"


if __name__ == "__main__":
    sys.exit(main())

"""Requests that no client would make, as bytes for a socket: seeded, and a few right ones in between."""

import random

from collabsecure_cli.authorization import authorization

METHODS = ["GET", "POST", "PATCH", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "G\x00T", ""]
TARGETS = [
    "messages", "messages/0", "messages/1", "messages/999999999999999", "messages/-1", "messages/%30", "sums/0",
    "sums/1", "sums/18446744073709551616", "results/0", "results/1", "results/x", "layers/1", "layers/2", "layers/..",
    "messages/0/", "messages//0", "sums/%00", "messages/٣", "", "..", "../../status.json", "messages?x=1", "sums/0#x",
]  # fmt: skip
PATHS = [
    "/", "/status.json", "/healthz", "/metrics", "*", "http://127.0.0.1/healthz", "/../../etc/passwd", "/%2e%2e/%2e%2e",
    "//", "/v1", "/v1/", "/\xff\xfe", "/%ff%fe", "/%", "/%zz", "/" + "a" * 9000, "/?" + "a=b&" * 2000, "/\x7f",
    "/%c0%ae", "relative", "\\", "/;x", "/v1/%00/clients/1/messages", "/metrics?name[]=" + "x" * 500,
]  # fmt: skip
ROUTES = [
    ("POST", "messages"), ("GET", "messages/0"), ("GET", "messages/3"), ("HEAD", "sums/0"), ("HEAD", "sums/1"),
    ("PATCH", "sums/0"), ("PATCH", "sums/1"), ("GET", "results/0"), ("GET", "results/1"), ("GET", "layers/1"),
    ("HEAD", "layers/2"),
]  # fmt: skip
NUMBERS = [
    "0",
    "1",
    "-1",
    "+1",
    "1.5",
    "1e3",
    "0x1",
    "99999999999999999999",
    "",
    " ",
    "nan",
    "1,2",
    "\xb2",
    "\x00",
    "7 ",
]
RANGES = [
    "bytes=0-",
    "bytes=5-4",
    "bytes=-",
    "bytes=0-0,1-1,2-2",
    "bytes=" + "0-0," * 800,
    "lines=1",
    "bytes=999-",
    "\xff",
]
HEADERS = [
    ("Content-Type", "application/json"), ("Expect", "100-continue"), ("Expect", "tea"), ("Connection", "close"),
    ("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAAA"), ("Host", ""),
    ("Host", "x" * 3000), ("Cookie", "a=b"), ("X-Forwarded-For", "1.2.3.4"), ("X-HTTP-Method-Override", "DELETE"),
    ("Accept-Encoding", "gzip"), ("Content-Encoding", "gzip"), ("If-Range", "x"), ("If-None-Match", "*"),
    ("Authorization", "Basic dXNlcjpwYXNz"), ("Authorization", "Collabsecure client=1, signature=" + "A" * 86),
    ("Authorization", "\xff" * 100), ("Authorization", "Collabsecure client=1, signature=" + "-" * 8000),
    ("", "x"), ("Bad Name", "x"), ("X", "line\r\n folded"), ("X", "\x00"), ("X" * 5000, "y"), ("Trailer", "Expires"),
]  # fmt: skip
LENGTHS = ["0", "5", "-1", "x", "99999999999", "5, 5", "5, 6", "+5", "0x5", "1" * 30, ""]


class Noise:
    """Makes requests about one session; `pieces` are real messages, to be damaged."""

    def __init__(self, light, pieces, seed):
        self.light, self.pieces, self.random = light, pieces, random.Random(seed)

    def connection(self):
        """What is written to one connection, in so many pieces; and whether the writing side is closed then."""
        rng = self.random
        whole = b"".join(self._request() for _ in range(rng.choice([1, 1, 1, 1, 2, 3, 8])))
        if rng.random() < 0.05:
            whole = self._damaged(whole)
        if rng.random() < 0.1:
            whole = whole[: rng.randrange(len(whole) + 1)]
        if rng.random() < 0.03:
            whole = rng.randbytes(rng.choice([1, 100, 5000, 70_000])) + whole
        cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice([0, 0, 0, 1, 3])))
        return [
            whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)
        ], rng.random() < 0.8

    def _request(self):
        """Half of them are HTTP as it should be, so that what they ask for is looked at."""
        rng = self.random
        clean = rng.random() < 0.5
        method, target, client = rng.choice(METHODS[:4]), rng.choice(TARGETS), rng.choice([1, 1, 2, 3, 0, 4, 99_999])
        if clean and rng.random() < 0.7:
            method, target = rng.choice(ROUTES)
        elif not clean:
            method = rng.choice(METHODS)
        path = rng.choice(PATHS) if rng.random() < 0.15 else f"/v1/{self._transcript()}/clients/{client}/{target}"
        offset = rng.choice(["0", "0", *NUMBERS])
        headers = [("Host", "127.0.0.1")]
        if client in self.light.identities and rng.random() < 0.8:
            number = int(offset) if offset.isascii() and offset.isdigit() and len(offset) < 16 else 0
            signed = authorization(self.light.session, self.light.identities[client], method, target, number)
            headers.append(("Authorization", signed if rng.random() < 0.9 else signed[:-2] + "AA"))
        if method == "PATCH" or rng.random() < 0.3:
            headers.append(("Upload-Offset", offset))
        if rng.random() < 0.15:
            headers.append(("Range", rng.choice(RANGES)))
        return self._clean(method, path, headers) if clean else self._broken(method, path, headers)

    def _clean(self, method, path, headers):
        body = self._body() if method in ("POST", "PATCH") else b""
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _broken(self, method, path, headers):
        rng, body = self.random, self._body()
        headers = headers * rng.choice([1, 1, 1, 0, 2]) + rng.sample(HEADERS, rng.choice([0, 0, 1, 2, 5]))
        if rng.random() < 0.02:
            headers += [("X-Many", str(number)) for number in range(2000)]
        match rng.choice(["length"] * 6 + ["chunked", "chunked", "wrong", "both", "none"]):
            case "length":
                headers.append(("Content-Length", str(len(body))))
            case "chunked":
                headers.append(("Transfer-Encoding", "chunked"))
                body = self._chunked(body)
            case "wrong":
                headers.append(("Content-Length", rng.choice(LENGTHS)))
            case "both":
                coding = rng.choice(["chunked", "gzip", "x"])
                headers += [("Content-Length", str(len(body))), ("Transfer-Encoding", coding)]
        rng.shuffle(headers)
        version = rng.choice(["1.1"] * 12 + ["1.0", "0.9", "2.0", "9.9", "x"])
        lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers)]
        end = rng.choice(["\r\n"] * 15 + ["\n", "\r"])
        return end.join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _transcript(self):
        right = self.light.session.transcript.hex()
        return right if self.random.random() < 0.9 else self.random.choice([right.upper(), right[:-1], "0" * 64, ""])

    def _body(self):
        """Nothing, garbage, a real message with some bits flipped, or one of another length; never a right one."""
        rng = self.random
        kind = rng.choice(["none", "garbage", "flipped", "flipped", "cut", "long", "twice"])
        piece = rng.choice(self.pieces)
        match kind:
            case "none":
                return b""
            case "garbage":
                return rng.randbytes(rng.choice([1, 99, 100, 101, 1000, 50_000]))
            case "flipped":
                return self._damaged(piece)
            case "cut":
                return piece[: rng.randrange(len(piece))]
            case "long":
                return piece + bytes(rng.choice([1, 64, 100_000, 1_000_000]))
            case _:
                return piece + piece

    def _damaged(self, piece):
        damaged = bytearray(piece)
        for _ in range(self.random.choice([1, 1, 1, 5])):
            damaged[self.random.randrange(len(damaged))] ^= 1 << self.random.randrange(8)
        return bytes(damaged) if damaged != piece else self._damaged(piece)

    def _chunked(self, body):
        rng, out = self.random, b""
        while body:
            length = rng.randrange(1, len(body) + 1)
            size = rng.choice(
                [f"{length:x}"] * 12 + [f"{length:X};x=y", "-1", "ffffffffffffffff", "x", "", f"{length + 1:x}"]
            )
            out += size.encode() + b"\r\n" + body[:length] + rng.choice([b"\r\n"] * 12 + [b"", b"\n"])
            body = body[length:]
        return out + rng.choice([b"0\r\n\r\n"] * 8 + [b"0\r\nTrailer: x\r\n\r\n", b"", b"0\r\n"])

"""Flink's format judges as `selfgen.messages` does: the same messages through both, thousands of odd ones."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flink_jobs import contract
from selfgen.contract import INVALID, VALID
from selfgen.messages import LATEST_MS, MAX_BYTES, MAX_DEPTH, MESSAGE_TYPES, as_object, decode
from selfgen.settings import get_settings
from stack.install import install
from stack.servers import classpath

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

#: (element id, epoch ms, measured values) of an accepted message.
Judged = tuple[str, int, tuple[float | None, ...]] | None
Judge = Callable[[list[bytes]], list[Judged]]


def names(topic: str) -> list[str]:
    return [field["name"] for field in contract.fields(topic)]


def by_messages(topic: str, values: list[bytes]) -> list[Judged]:
    """What `selfgen.messages` says at the end of all times, so that nothing is ahead of the clock."""
    decoded = decode(topic, values, now_ms=2 * LATEST_MS)
    found: list[Judged] = [None] * len(values)
    rows = zip(decoded.indexes, decoded.element_ids, decoded.event_times_ms.tolist(), decoded.messages, strict=True)
    for index, element_id, event_time_ms, message in rows:
        fields = as_object(message)
        found[index] = (element_id, event_time_ms, tuple(fields.get(name) for name in names(topic)[2:]))
    return found


@contextmanager
def java(topic: str) -> Iterator[Judge]:
    """Judge by the format, in a process of its own."""
    element_id, *others = names(topic)
    columns = [*others, element_id]  # an id may hold what separates the others
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", classpath(get_settings(), "flink/lib")]
    command += [str(Path(__file__).with_name("JudgeMessages.java")), contract.description(topic), *columns]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        into, back = process.stdin, process.stdout
        assert into is not None
        assert back is not None

        def answer() -> Judged:
            line = back.read(*struct.unpack(">i", back.read(4))).decode()
            if line == "refused":
                return None
            time, *numbers, found_id = line[1:-1].split(", ", len(others))
            return found_id, int(time), tuple(None if text == "null" else float(text) for text in numbers)

        def judge(values: list[bytes]) -> list[Judged]:
            into.write(struct.pack(">i", len(values)) + b"".join(struct.pack(">i", len(v)) + v for v in values))
            into.flush()
            return [answer() for _ in values]

        yield judge
        into.write(struct.pack(">i", 0))
    assert process.returncode == 0


@pytest.fixture(scope="module")
def judges() -> Iterator[dict[str, Judge]]:
    install(get_settings())
    with ExitStack() as stack:
        yield {topic: stack.enter_context(java(topic)) for topic in MESSAGE_TYPES}


def agree(judges: dict[str, Judge], topic: str, values: list[bytes]) -> list[Judged]:
    found, wanted = judges[topic](values), by_messages(topic, values)
    for value, one, other in zip(values, found, wanted, strict=True):
        assert one == other, value[:300]
    return found


# --------------------------------------------------------------------------------------- chosen cases
def wind(**fields: str) -> bytes:
    """Return a reading with these texts in place of its own values."""
    own = {"wind_id": '"w1"', "timestamp": "1767225600000", "wind_speed": "4.5"} | fields
    return ("{" + ",".join(f'"{name}":{text}' for name, text in own.items()) + "}").encode("utf-8", "surrogatepass")


TIMES = """
2026-01-01T00:00:00Z 2026-01-01t00:00:00z 2026-01-01_00:00:00Z 2026-01-01T00:00:00+0000 2026-01-01T00:00:00-00:00
2026-01-01T00:00:00 2026-01-01T00:00:00+00 2026-01-01T00:00:00+00: 2026-01-01T00:00:00+0:000 2026-01-01T00:00:00+00:0
2026-01-01T00:00:00+23:59 2026-01-01T00:00:00-23:59 2026-01-01T00:00:00+24:00 2026-01-01T00:00:00+00:60
2026-01-01T00:00:00.Z 2026-01-01T00:00:00,5Z 2026-01-01T00:00:00.1Z 2026-01-01T00:00:00.0009Z
2026-01-01T00:00:00.0009999Z 2026-01-01T00:00:00.00099949Z 2026-01-01T00:00:00.0009995Z 2026-01-01T00:00:00.9999995Z
2026-01-01T00:00:00.123456789012345Z 2026-01-01T00:00:00.12345678901234567890Z 2026-01-01T00:00:00.5+05:45
2025-12-31T23:59:60Z 2025-12-31T24:00:00Z 2025-12-31T23:60:00Z 2025-02-29T00:00:00Z 2024-02-29T00:00:00Z
2100-02-29T00:00:00Z 2000-02-29T00:00:00Z 2025-00-01T00:00:00Z 2025-13-01T00:00:00Z 2025-01-00T00:00:00Z
2025-04-31T00:00:00Z 1999-12-31T23:59:59.9999999Z 1999-12-31T23:59:59.999Z 2000-01-01T00:00:00Z
2000-01-01T00:00:00+00:01 0000-01-01T00:00:00Z 0001-01-01T00:00:00+23:59 9999-12-31T23:59:59.999999Z
9999-12-31T23:59:59.9999999Z 9999-12-31T23:59:59-23:59 10000-01-01T00:00:00Z 02026-01-01T00:00:00Z
2026-1-01T00:00:00Z 2026-01-01T00:00Z 2026-01-01 20260101T000000Z 2026-W01-1T00:00:00Z 2026-01-01T00:00:00ZZ
2026-01-01T00:00:00Z_ _2026-01-01T00:00:00Z 2026-01-01T00:00:00.5 2026-01-01T00:00:00UTC -026-01-01T00:00:00Z
+026-01-01T00:00:00Z 1767225600000 ２０２６-01-01T00:00:00Z 2026-01-01T00:00:00\\u005a 2026-01-01T00:00:00\\u0000
2026-01-01T00:00:00.5\\u0000 2026-01-01T00:00:00.500000\\u0000Z
"""
NUMBERS = """
0 -0 -0.0 0.0 1 01 00 -01 +1 .5 1. 1.e3 1e 1e+ 1e3 1E+2 1e-400 -1e-400 1e400 -1e400 0e999999999999 1e999999999999
1e-999999999999 120 120.0 120.000000000000001 120.00000000000001 120.1 12e1 12e2 -1e-5 -5e-324 359.99999999999999
359.99999999999997 359.9999999999999 4.35 2.2250738585072011e-308 0.1e1 1e0005 9223372036854775807 9223372036854775808
-9223372036854775808 -9223372036854775809 18446744073709551616 1e308 1.7976931348623157e308 1.7976931348623159e308
123456789012345678901234567890 NaN Infinity -Infinity nan true false null "1" "" [] {} [1] 0x10 1_000 1f 1d ١ - --1
1767225600000 1767225600000.0 1767225600000.5 1.7672256e12 17672256000010e-1 1767225600000.00001 -1767225600000
946684799999 946684800000 253402300800000 253402300800001 2534023008e5 1e300 """
IDS = [
    *('"w1"', '""', '" "', '"a\\nb"', '"a\\u0000"', '"\\u007f"', '"\u0080"', '"\u009f"', '"\u00a0"', '"\\u0020"'),
    *(
        '"\\ud800"',
        '"\\udc00"',
        '"\\ud83d\\ude00"',
        '"\\ude00\\ud83d"',
        '"\\ud83dx\\ude00"',
        '"😀"',
        '"\\/"',
        '"\\x41"',
    ),
    *('"\\u00e"', '"\\u00eg"', '"é"', '"\\u20ac"', '"\ufeff"', '"\uffff"', "'w1'", "w1", "1", "null", '["w1"]', '"a'),
    *('"\ud800"', '"\ud83d\ude00"', '"a\x00b"', '"a\tb"', '"\u2028"', '"\\""', '"\\\\"', '"\\\\\\"', '"\\u0061"'),
    *(f'"{"x" * 127}é"', f'"{"é" * 64}"', f'"{"é" * 65}"', f'"{"x" * 128}"', f'"{"x" * 129}"', f'"{"😀" * 32}"'),
    *(f'"{"😀" * 32}x"', f'"{"€" * 42}é"', f'"{"€" * 43}"'),
]
WHOLE = [
    *(b"", b" ", b"{}", b"[]", b"null", b'"x"', b"1", b"{", b"}", b"{}{}", b"\x00", b"\xff", b"{,}", b"/**/"),
    *(
        wind() + tail
        for tail in (b" \t\r\n", b"\x00", b"\x0b", b"\xa0", b"{}", b" {}", b",", b"}", b"]", b"\n1", b"//")
    ),
    *(head + wind() for head in (b" \t\r\n", b"\xef\xbb\xbf", b"\x0c", b"\xfe\xff", b"[", b"{", b")]}',\n", b"\x00")),
    *(wind().decode().encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")),
    *(wind(x=text) for text in ("1,", "1,,", "1}", "/**/1", '"\n"', '"\\a"', "[1,]", "[,1]", '{"a":1,"a":2}', "tru")),
    *(wind(x=text) for text in ('{"a":1,"b":{"a":1}}', '[{"a":1},{"a":1}]', '{"a":1,"\\u0061":2}', '{"a" 1}', "{1:1}")),
    *(wind(x=text) for text in ('{"a\\u0000":1}', '"\\u0000"', '{"\\ud800":1}', '["\\udc00"]', "[1e400]", "[NaN]")),
    *(wind(x=text) for text in ('{"é":1,"\\u00e9":2}', '{"😀":1,"\\ud83d\\ude00":2}', '{"":1}', '{"":1,"":2}', "TRUE")),
    wind().replace(b"}", b',"wind_speed":4.5}'),
    wind().replace(b"}", b',"wind\\u005fspeed":4.5}'),
    wind().replace(b'"wind_speed"', b'"wind\\u005fspeed"'),
    wind().replace(b'"wind_speed"', b'"Wind_speed"'),
    wind().replace(b'"wind_speed"', b'"wind_speed\\u0000"'),
    wind(**{"a\\u0000": "1"}),
    wind(**{"\\ud800": "1"}),
    wind(**{"a\\nb": "1"}),
    wind(**{"x" * 60_000: "1"}),
    wind(x="1", wind_direction="null", temperature="null"),
    wind(x="0." + "1" * 2000, wind_speed="4." + "5" * 2000, temperature="1" + "0" * 400),
    wind(x="1" * 2000),
    wind(x='"' + "x" * (MAX_BYTES - len(wind(x='""'))) + '"'),
    wind(x='"' + "x" * (MAX_BYTES - len(wind(x='""')) + 1) + '"'),
    *(wind(x="[" * depth + "]" * depth) for depth in (MAX_DEPTH - 1, MAX_DEPTH, 500, 100_000)),
    *(wind(x='{"a":' * depth + "1" + "}" * depth) for depth in (MAX_DEPTH - 1, MAX_DEPTH, 500, 30_000)),
    wind(x="[" * (MAX_DEPTH - 2) + "[],[1,[]]" + "]" * (MAX_DEPTH - 2)),
    *(
        b'{"wind_id":"' + bad + b'","timestamp":1767225600000,"wind_speed":1}'
        for bad in (
            b"\xc0\x80",
            b"\xe0\x80\x80",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xf8\x88\x80\x80\x80",
            b"\xc3",
            b"\x80",
            b"\xf0\x9f\x98\x80",
            b"\xed\x9f\xbf",
            b"\xef\xbf\xbf",
            b"\xe2\x82",
        )
    ),
]


def test_chosen_messages(judges):
    chosen = [wind(timestamp=f'"{text.replace("_", " ")}"') for text in TIMES.split()]
    chosen += [
        wind(**{field: text})
        for field in ("timestamp", "wind_speed", "wind_direction", "temperature", "x")
        for text in NUMBERS.split()
    ]
    chosen += [wind(**{field: text}) for field in ("wind_id", "x") for text in IDS] + WHOLE + list(INVALID.values())
    found = agree(judges, "wind", chosen)
    assert 100 < sum(each is not None for each in found) < len(found) - 100


@pytest.mark.parametrize("topic", MESSAGE_TYPES)
def test_examples_of_the_contract(judges, topic):
    assert None not in agree(judges, topic, [json.dumps(each).encode() for each in VALID[topic]])


# ---------------------------------------------------------------------------------------- made cases
class Maker:
    """Makes messages of a topic that are nearly always nearly right."""

    def __init__(self, topic: str, chance: random.Random) -> None:
        self.fields = contract.fields(topic)
        self.chance = chance

    def some(self, choices: str) -> str:
        return self.chance.choice(choices.split(" "))

    def digits(self) -> str:
        return "".join(self.chance.choices("0123456789", k=self.chance.choice([1, 2, 3, 6, 7, 16, 17, 20, 25])))

    def number(self) -> str:
        chance = self.chance
        if chance.random() < 0.2:
            return chance.choice(NUMBERS.split())
        whole = str(chance.randrange(130)) if chance.random() < 0.8 else self.digits()
        fraction = f".{self.digits()}" if chance.random() < 0.6 else ""
        exponent = f"{self.some('e E e- E+')}{chance.randrange(330)}" if chance.random() < 0.2 else ""
        return chance.choice(["", "", "", "", "-", "+"]) + whole + fraction + exponent

    def text(self) -> str:
        chance = self.chance
        if chance.random() < 0.3:
            return chance.choice(IDS)
        characters = chance.choices('ab0 "\\\n/\x00\x7f\x85\xa0é€\u2028\ufeff😀', k=chance.randrange(1, 6))
        return json.dumps("".join(characters), ensure_ascii=chance.random() < 0.5)

    def time(self) -> str:
        chance = self.chance
        if chance.random() < 0.3:
            return str(chance.randrange(946_684_000_000, 1_893_456_000_000))
        if chance.random() < 0.1:
            return f'"{chance.choice(TIMES.split()).replace("_", " ")}"'
        date = f"20{chance.randrange(100):02}-{chance.randrange(1, 13):02}-{chance.randrange(1, 32):02}"
        clock = f"{chance.randrange(25):02}:{chance.randrange(61):02}:{chance.randrange(61):02}"
        fraction = f".{self.digits()}" if chance.random() < 0.6 else ""
        zone = self.some("Z Z Z z +01:00 -0330 -00:00 +23:59 +24:00 +5:00 ")
        return f'"{date}{self.some("T T T t _").replace("_", " ")}{clock}{fraction}{zone}"'

    def any(self, depth: int = 0) -> str:
        kind = self.chance.randrange(8 if depth < 4 else 6)
        if kind < 2:
            return self.number()
        if kind < 6:
            return self.chance.choice([self.text(), self.time(), "null", "true"])
        items = [self.any(depth + 1) for _ in range(self.chance.randrange(4))]
        if kind == 6:
            return f"[{','.join(items)}]"
        return "{" + ",".join(f"{self.some(QUOTED)}:{item}" for item in items) + "}"

    def value(self, kind: str) -> str:
        if self.chance.random() < 0.05:
            return self.any()
        right = {"id": self.text, "time": self.time, "number": lambda: repr(self.chance.uniform(0, 119))}
        return right[kind]() if self.chance.random() < 0.9 else self.number()

    def message(self) -> bytes:
        chance = self.chance
        pairs = [
            (f'"{field["name"]}"', self.value(field["kind"]))
            for field in self.fields
            if chance.random() < (0.98 if field["required"] else 0.5)
        ]
        while chance.random() < 0.3:
            name = f'"{chance.choice(self.fields)["name"]}"' if chance.random() < 0.1 else self.some(QUOTED)
            pairs.append((name, self.any()))
        if chance.random() < 0.5:
            chance.shuffle(pairs)
        before, after = chance.choice(["", "", " ", "\n"]), chance.choice(["", "", "\t", "\r\n"])
        inside = ",".join(f"{before}{name}{after}:{before}{value}{after}" for name, value in pairs)
        message = bytearray(f"{after}{{{inside}}}{before}".encode("utf-8", "surrogatepass"))
        if chance.random() < 0.15:
            place = chance.randrange(len(message) + 1)
            piece = chance.choice([b"", b",", b'"', b"}", b"{", b"\\", b"\\ud83d", b"0", b":", chance.randbytes(1)])
            message[place : place + chance.randrange(3)] = piece
        return bytes(message)


QUOTED = '"a" "b" "\\u0061" "" "é" "x" "y" "z" "\\ud83d\\ude00" "😀"'


@pytest.mark.parametrize("topic", MESSAGE_TYPES)
def test_made_messages(judges, topic):
    shares = []

    @settings(max_examples=15, deadline=None)
    @given(st.integers(0, 2**32))
    def check(seed: int) -> None:
        maker = Maker(topic, random.Random(seed))
        found = agree(judges, topic, [maker.message() for _ in range(400)])
        shares.append(sum(each is not None for each in found) / len(found))

    check()
    assert 0.1 < sum(shares) / len(shares) < 0.9

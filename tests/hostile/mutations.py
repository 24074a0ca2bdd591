"""Files as nobody should send them: pieces of real-looking CSV files, spoilt by seed.

    files = HostileFiles(seed=7, seeds=read_seeds(directory)).make(400)

The same seed and the same pieces give the same bytes and names.
"""

from __future__ import annotations

# ruff: noqa: ARG001 - all mutations are called alike
import gzip
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.integration.application import NewFile

MODIFIED = datetime(2024, 7, 5, tzinfo=UTC)
MOSTLY_STREAMS = "streams " * 7 + "songs songs users"
LONGEST_FIELD = 10 * 1024 * 1024

BYTES = (
    b"\x00",
    b"\x00" * 40,
    b"\xff",
    b"\x80",
    b"\xc0\xaf",  # "/" in more bytes than allowed
    b"\xed\xa0\x80",  # half of a surrogate pair
    b"\xf4\x90\x80\x80",  # above the last character
    b"\xef\xbb\xbf",
    b"\xef\xbf\xbe",
    b"\x1a",
    b"\x1b[2J",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\x7f",
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xae",
    b"\xe3\x80\x80",
    "😀".encode(),
    "e\u0301".encode(),
    b"\r",
    b"\n",
    b"\r\n",
    b'"',
    b'""',
    b'"""',
    b",",
    b";",
    b"\\",
    b"\\N",
    b"'",
    b"\t",
)
FIELDS = (
    "",
    " ",
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1:A9)",
    '=HYPERLINK("http://x","y")',
    "NULL",
    "null",
    "None",
    "NaN",
    "Infinity",
    "-0",
    "+0",
    "007",
    "1e3",
    "1.0",
    "0x10",
    "1_000",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "٣",
    "１",
    "²",
    "0000-00-00 00:00:00",
    "0001-01-01 00:00:00",
    "1999-12-31 23:59:59.999999",
    "2000-01-01 00:00:00",
    "2023-02-29 00:00:00",
    "2024-02-29 23:59:59",
    "2024-06-25 24:00:00",
    "2024-06-25 23:59:60",
    "2024-06-25T10:00:00.123456",
    "2024-06-25T10:00:00.1234567",
    "2024-06-25 10:00:00Z",
    "2024-06-25 10:00:00+02:00",
    "2024-06-25 10:00:00-18:01",
    "２024-06-25 10:00:00",
    "9999-12-31 23:59:59",
    "10000-01-01 00:00:00",
    "../../../etc/passwd",
    "..\\..\\x",
    "file:///etc/passwd",
    "s3://other/bucket",
    "${env:HOME}",
    "{{ ds }}",
    "'; DROP TABLE staged; --",
    "<script>alert(1)</script>",
    "a;;b; ;",
    ";",
    "user_id",
    "\ufeff",
    "\x00",
    "a\x00b",
    "\u202eevil",
    "Z\u0351\u0343\u0300" * 20,
    "\U0010ffff",
)
# In names of files; all are legal on a disk, most of them in S3 too.
NAME_PIECES = (
    " ",
    "  two",
    "%",
    "%20",
    "%2F..%2F",
    "+",
    "=",
    "a=1",
    "#",
    "?",
    "&",
    ":",
    "12:30:00",
    "*",
    "[a]",
    "{a,b}",
    "\\",
    "\\..\\",
    "..",
    "...",
    "..csv",
    "'",
    '"',
    "`",
    "$HOME",
    "${x}",
    "{{x}}",
    ";",
    "|",
    "<",
    ">",
    "~",
    "^",
    "\t",
    "\n",
    "\r",
    "\x01",
    "\x1b[31m",
    "\x7f",
    "\u0085",
    "\u00a0",
    "\u2028",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "é",
    "e\u0301",
    "ß",
    "İ",
    "日本",
    "별",
    "😀",
    "\U0010ffff",
    "-",
    "--set",
    "_",
    ".",
    "=cmd",
    "@",
    "!",
    "x" * 120,
)
ODD_FOLDERS = ("2024/06", "day=2024-06-25", "a=1/b=2", "x.csv", "ünï cödé", "%41", "a b", "[a]", "..x", "_x", ".y")
ENCODINGS = ("latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "utf-7", "cp1252", "cp037")


@dataclass(frozen=True)
class Seed:
    """A good file that mutations start from: its dataset and its lines, the header first."""

    dataset: str
    lines: tuple[str, ...]


def read_seeds(directory: Path, most_lines: int = 5000) -> list[Seed]:
    """Take the beginnings of all files in `{streams,songs,users}/`."""
    seeds = []
    for path in sorted(directory.glob("*/*.csv*")):
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        lines = content.decode("utf-8-sig").splitlines()[:most_lines]
        seeds.append(Seed(path.parent.name, tuple(lines)))
    return seeds


class HostileFiles:
    """Makes mutated files from good ones."""

    def __init__(self, seed: int, seeds: Sequence[Seed], huge_fields: int = 1, datasets: str = MOSTLY_STREAMS) -> None:
        """`datasets` are drawn from, in words."""
        self._dice = random.Random(seed)
        self._datasets = datasets.split()
        self._seeds = {name: [s for s in seeds if s.dataset == name] for name in ("streams", "songs", "users")}
        self._huge_fields = huge_fields

    def make(self, count: int) -> list[NewFile]:
        """So many files, each of a name of its own."""
        made: dict[str, NewFile] = {}
        while len(made) < count:
            file = self._file(len(made))
            made.setdefault(file.name, file)
        return list(made.values())

    def _file(self, number: int) -> NewFile:
        dice = self._dice
        dataset = dice.choice(self._datasets)
        seed = dice.choice(self._seeds[dataset])
        header, *rows = seed.lines
        size = dice.choice((0, 1, 5, 20, 25, 40, 60, 60, 100, 120, 200))
        start = dice.randrange(max(1, len(rows) - size))
        content = "".join(f"{line}\n" for line in (header, *rows[start : start + size])).encode()
        for _ in range(dice.choice((0, 1, 1, 1, 1, 2, 2, 3, 5))):
            content = dice.choice(MUTATIONS)(dice, content)
        if number < self._huge_fields:
            content = _huge_field(dice, content)
        name, content = self._packed(self._name(number), content)
        return NewFile(f"{dataset}/{name}", content, MODIFIED + timedelta(seconds=dice.randrange(5)))

    def _name(self, number: int) -> str:
        dice = self._dice
        pieces = [dice.choice(NAME_PIECES) for _ in range(dice.choice((0, 0, 1, 1, 2)))]
        pieces.insert(dice.randrange(len(pieces) + 1), str(number))
        if dice.random() < 0.1:
            pieces.append(chr(dice.choice((dice.randrange(1, 0xD800), dice.randrange(0xE000, 0x110000)))))
        stem = "".join(pieces).replace("/", "_").encode()[:200].decode("utf-8", "ignore")
        folder = dice.choice(ODD_FOLDERS) if dice.random() < 0.25 else ""
        return f"{folder}/{stem}.csv" if folder else f"{stem}.csv"

    def _packed(self, name: str, content: bytes) -> tuple[str, bytes]:
        dice = self._dice
        if dice.random() > 0.25:
            return name, content
        return dice.choice(PACKINGS)(dice, name, content)


# --- what is done to the bytes ---

Mutation = Callable[[random.Random, bytes], bytes]


def _place(dice: random.Random, content: bytes) -> int:
    return dice.randrange(len(content) + 1)


def _insert_bytes(dice: random.Random, content: bytes) -> bytes:
    place = _place(dice, content)
    return content[:place] + dice.choice(BYTES) + content[place:]


def _flip_bit(dice: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _delete_span(dice: random.Random, content: bytes) -> bytes:
    place = _place(dice, content)
    return content[:place] + content[place + dice.choice((1, 1, 2, 10, 200)) :]


def _repeat_span(dice: random.Random, content: bytes) -> bytes:
    place = _place(dice, content)
    span = content[place : place + dice.choice((1, 5, 50, 500))]
    return content[:place] + span * dice.randint(2, 4) + content[place + len(span) :]


def _truncate(dice: random.Random, content: bytes) -> bytes:
    return content[: _place(dice, content)]


def _only_bytes(dice: random.Random, content: bytes) -> bytes:
    return dice.choice((b"", b"\n", b"\r\n\r\n", b"\x00" * 512, b"\xef\xbb\xbf", b"\xff\xfe", dice.randbytes(300)))


def _random_tail(dice: random.Random, content: bytes) -> bytes:
    return content + dice.choice((b"\x00" * 1024, dice.randbytes(64), b"\x1a", b'"', b"\n" * 50, b"PK\x03\x04"))


def _line_ends(dice: random.Random, content: bytes) -> bytes:
    end = dice.choice((b"\r\n", b"\r", b"\n\r", b"\n\n", b" \n", b"\r\r\n", b"\x0b\n", b",\n"))
    if dice.random() < 0.5:
        return content.replace(b"\n", end)
    lines = content.split(b"\n")
    return b"".join(line + (end if dice.random() < 0.1 else b"\n") for line in lines[:-1]) + lines[-1]


def _lines(dice: random.Random, content: bytes) -> bytes:
    """Lines twice, gone, swapped, joined; the header again, or not at all."""
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    match dice.randrange(8):
        case 0:
            lines[place:place] = [lines[place]] * dice.randint(1, 9)
        case 1:
            del lines[place]
        case 2:
            dice.shuffle(lines)
        case 3:
            lines.insert(place, lines[0])
        case 4:
            del lines[0]
        case 5:
            lines[place : place + 2] = [b"".join(lines[place : place + 2])]
        case 6:
            lines[place] = lines[place] + b"," * dice.choice((1, 2, 300, 25_000))
        case _:
            lines.insert(place, dice.choice((b"", b"  ", b"\t", b"\x0c", b"\xc2\xa0", b'""', b",", b"#")))
    return b"\n".join(lines)


def _quotes(dice: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    fields = lines[place].split(b",")
    column = dice.randrange(len(fields))
    field = fields[column]
    fields[column] = dice.choice(
        (
            b'"' + field,
            field + b'"',
            b'"' + field + b'"',
            b' "' + field + b'" ',
            b'"' + field + b'"x',
            b'""' + field + b'""',
            b'"' + field + b'\\"',
            b'"' + field + b",",
            b'"' + field[:2] + b"\n" + field[2:] + b'"',
            b'"' + field[:2] + b'""\r\n""' + field[2:] + b'"',
        )
    )
    lines[place] = b",".join(fields)
    return b"\n".join(lines)


def _field(dice: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    for _ in range(dice.choice((1, 1, 2))):
        place = dice.randrange(len(lines))
        fields = lines[place].split(b",")
        value = dice.choice(FIELDS).encode()
        if dice.random() < 0.3:
            value = b'"' + value.replace(b'"', b'""') + b'"'
        fields[dice.randrange(len(fields))] = value
        lines[place] = b",".join(fields)
    return b"\n".join(lines)


def _huge_field(dice: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    huge = dice.choice((b"x", b" ", b"0", b'""', "ü".encode(), b";a")) * (LONGEST_FIELD // 2)
    fields = lines[place].split(b",")
    fields[dice.randrange(len(fields))] = b'"' + huge + b'"' if dice.random() < 0.5 else huge
    lines[place] = b",".join(fields)
    return b"\n".join(lines)


def _header(dice: random.Random, content: bytes) -> bytes:
    header, end, rest = content.partition(b"\n")
    names = header.split(b",")
    place = dice.randrange(len(names))
    match dice.randrange(8):
        case 0:
            dice.shuffle(names)
        case 1:
            names[place] = names[place].upper()
        case 2:
            names.append(names[place])
        case 3:
            del names[place]
        case 4:
            names[place] = dice.choice(FIELDS).encode()
        case 5:
            names.append(dice.choice(FIELDS).encode())
        case 6:
            names = [b'"' + name + b'"' for name in names]
        case _:
            names[place] = b" " + names[place] + b"\t"
    return b",".join(names) + end + rest


def _encoding(dice: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode(dice.choice(ENCODINGS), "replace")


def _marks(dice: random.Random, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" * dice.choice((1, 1, 2)) + content


def _separator(dice: random.Random, content: bytes) -> bytes:
    return content.replace(b",", dice.choice((b";", b"\t", b"|", b", ", b" ,", b"\xef\xbc\x8c")))


MUTATIONS: tuple[Mutation, ...] = (
    *(_insert_bytes, _flip_bit, _field, _quotes, _lines) * 3,
    *(_field, _quotes) * 2,
    _delete_span,
    _repeat_span,
    _truncate,
    _only_bytes,
    _random_tail,
    _line_ends,
    _header,
    _encoding,
    _marks,
    _separator,
)


# --- how it is packed ---

Packing = Callable[[random.Random, str, bytes], tuple[str, bytes]]


def _zipped(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return f"{name}.gz", gzip.compress(content, mtime=0)


def _zipped_in_members(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    """Cut anywhere, also within a character; some members are empty."""
    first, second = sorted((_place(dice, content), _place(dice, content)))
    parts = (content[:first], content[first:second], b"", content[second:])
    return f"{name}.gz", b"".join(gzip.compress(part, mtime=0) for part in parts)


def _zipped_twice(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return f"{name}.gz", gzip.compress(gzip.compress(content, mtime=0), mtime=0)


def _zipped_and_cut(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    packed = gzip.compress(content, mtime=0)
    return f"{name}.gz", packed[: _place(dice, packed)]


def _zipped_and_damaged(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return f"{name}.gz", _flip_bit(dice, gzip.compress(content, mtime=0))


def _zipped_with_tail(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    tail = dice.choice((b"\x00" * 512, b"\x00", b"more", b"\x1f\x8b", b"\n", content[:100]))
    return f"{name}.gz", gzip.compress(content, mtime=0) + tail


def _called_zipped(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return f"{name}.gz", content


def _zipped_but_not_called_so(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    return name, gzip.compress(content, mtime=0)


def _other_suffix(dice: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
    suffix = dice.choice(
        (".CSV", ".csv.GZ", ".csv.bz2", ".csv.zip", ".tsv", ".csv.csv", ".csv.gz.csv", ".csv ", ".csv\n")
    )
    return f"{name.removesuffix('.csv')}{suffix}", content


PACKINGS: tuple[Packing, ...] = (
    _zipped,
    _zipped,
    _zipped_in_members,
    _zipped_twice,
    _zipped_and_cut,
    _zipped_and_damaged,
    _zipped_with_tail,
    _zipped_with_tail,
    _called_zipped,
    _zipped_but_not_called_so,
    _other_suffix,
)

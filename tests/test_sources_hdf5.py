"""HDF5: read as other programs wrote it, in place, and nothing outside the file is followed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tables
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs.fletcher32 import Fletcher32

from vqpipe.errors import SourceError
from vqpipe.sources import find_benchmark, open_source, open_table
from vqpipe.sources.hdf5 import unpack
from vqpipe.sources.hdf5_file import DEFLATE, FLETCHER32, SHUFFLE

ROWS = np.random.default_rng(0).integers(-100, 100, (50, 6)).astype("f4")


def write(path: Path, name: str = "x", rows: np.ndarray = ROWS, **keys: Any) -> str:
    with h5py.File(path, "a", **keys.pop("file", {})) as file:
        file.create_dataset(name, data=rows, **keys)
    return str(path)


# name: settings of the data set, rows that are packed together
LAYOUTS: dict[str, tuple[dict[str, Any], int]] = {
    "in one piece": ({}, 1),
    "big-endian": ({"dtype": ">f4"}, 1),
    "halves": ({"dtype": "f2"}, 1),
    "bytes": ({"dtype": "i1"}, 1),
    "behind a user block": ({"file": {"userblock_size": 1024}}, 1),
    "chunks": ({"chunks": (7, 6)}, 7),
    "chunks of columns": ({"chunks": (7, 4), "maxshape": (None, 6)}, 7),
    "one chunk": ({"chunks": (50, 6)}, 50),
    "gzip": ({"chunks": (7, 4), "compression": "gzip"}, 7),
    "gzip of big-endian": ({"chunks": (7, 4), "compression": "gzip", "dtype": ">f4"}, 7),
    "shuffle": ({"chunks": (7, 4), "compression": "gzip", "shuffle": True}, 7),
    "all": ({"chunks": (9, 5), "compression": 9, "shuffle": True, "fletcher32": True}, 9),
    "checksums": ({"chunks": (9, 5), "fletcher32": True}, 9),
    "lzf": ({"chunks": (9, 5), "compression": "lzf", "shuffle": True, "fletcher32": True}, 9),
    "of today": ({"chunks": (9, 5), "compression": "gzip", "file": {"libver": "latest"}}, 9),
    "growing, of today": (
        {"chunks": (9, 6), "maxshape": (None, 6), "file": {"libver": "latest"}},
        9,
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_are_read_as_h5py_reads_them(tmp_path: Path, name: str) -> None:
    keys, chunk_rows = LAYOUTS[name]
    path = write(tmp_path / "a.h5", **dict(keys))
    source = open_source(path)
    assert (source.rows, source.dim, source.chunk_rows) == (50, 6, chunk_rows)
    with h5py.File(path) as file:
        wanted = file["x"][:]
    for start, stop in ((0, 50), (3, 22), (49, 50), (20, 20)):
        read = source.read(start, stop)
        np.testing.assert_array_equal(read, wanted[start:stop])
        assert (read.dtype, read.flags.c_contiguous) == (wanted.dtype.newbyteorder("="), True)
    np.testing.assert_array_equal(np.concatenate(list(source.pieces(3, 48, 9))), wanted[3:48])


@pytest.mark.parametrize("filters", [None, {"complib": "zlib", "complevel": 5, "fletcher32": True}])
def test_what_pytables_wrote_is_read(tmp_path: Path, filters: dict[str, Any] | None) -> None:
    packed = tables.Filters(**filters) if filters else None
    with tables.open_file(tmp_path / "a.h5", "w") as file:
        file.create_earray("/deep/er", "vectors", obj=ROWS, filters=packed, createparents=True)
        file.create_array("/", "names", obj=np.arange(50))
    for key in (None, "deep", "/deep/er/vectors"):
        source = open_source(str(tmp_path / "a.h5"), key=key)
        np.testing.assert_array_equal(source.read(1, 50), ROWS[1:])
        assert source.parts[0].key == "deep/er/vectors"


@pytest.mark.skipif(shutil.which("h5repack") is None, reason="needs h5repack (hdf5-tools)")
@pytest.mark.parametrize(
    "options", [["-l", "COMPA"], ["-l", "CONTI"], ["-l", "CHUNK=8x4", "-f", "SHUF", "-f", "GZIP=1"]]
)
def test_what_h5repack_wrote_is_read(tmp_path: Path, options: list[str]) -> None:
    path = write(tmp_path / "a.h5")
    subprocess.run(["h5repack", *options, path, str(tmp_path / "b.h5")], check=True)
    np.testing.assert_array_equal(open_source(str(tmp_path / "b.h5")).read(2, 50), ROWS[2:])


def test_a_file_of_other_tables_needs_a_key(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", "g/a")
    write(tmp_path / "a.h5", "b")
    with pytest.raises(
        SourceError, match=r"2 2-D data sets.*set `key`.*b \(50, 6\), g/a \(50, 6\)"
    ):
        open_source(path)
    with pytest.raises(SourceError, match=r"holds no 'c'.*there are b, g"):
        open_source(path, key="c")
    assert (open_source(path, key="g").read(0, 50) == ROWS).all()


def test_links_that_go_round_in_a_circle_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", "g/a")
    with h5py.File(path, "a") as file:
        file["g/round"] = file["/"]
        file["again"] = file["g/a"]
    assert (open_source(path).read(0, 50) == ROWS).all()


def soft(file: h5py.File) -> None:
    file["y"] = h5py.SoftLink("/x")


def external(file: h5py.File) -> None:
    file["y"] = h5py.ExternalLink("secret.h5", "/x")


def external_group(file: h5py.File) -> None:
    file["g"] = h5py.ExternalLink("secret.h5", "/")


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(50, 6), dtype="f4")
    layout[:] = h5py.VirtualSource("secret.h5", "x", shape=(50, 6))
    file.create_virtual_dataset("y", layout)


def stored_elsewhere(file: h5py.File) -> None:
    file.create_dataset("y", (50, 6), "f4", external=[("secret.bin", 0, 1200)])


def own_filter(file: h5py.File) -> None:
    # 307 is bzip2: one that would be loaded from a folder of plug-ins.
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((5, 6))
    settings.set_filter(307, h5py.h5z.FLAG_OPTIONAL, (9,))
    space = h5py.h5s.create_simple((50, 6))
    h5py.h5d.create(file.id, b"y", h5py.h5t.IEEE_F32LE, space, settings).close()


def records(file: h5py.File) -> None:
    file.create_dataset("y", data=np.zeros((5, 2), [("a", "f4"), ("b", "i4")]))


def texts(file: h5py.File) -> None:
    file.create_dataset("y", data=[["a", "b"]])


def truths(file: h5py.File) -> None:
    file.create_dataset("y", data=ROWS > 0)


def odd_floats(file: h5py.File) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 20, 11, 0, 20)
    kind.set_ebias(1023)
    space = h5py.h5s.create_simple((50, 6))
    h5py.h5d.create(file.id, b"y", kind, space).close()


def never_written(file: h5py.File) -> None:
    file.create_dataset("y", (50, 6), "f4")


def half_written(file: h5py.File) -> None:
    file.create_dataset("y", (50, 6), "f4", chunks=(10, 6))[:20] = ROWS[:20]


def wide_lzf(file: h5py.File) -> None:
    file.create_dataset("y", (2, 1 << 20), "f4", chunks=(2, 1 << 20), compression="lzf")[:] = 1


def doubles(file: h5py.File) -> None:
    file.create_dataset("y", data=ROWS.astype("f8"))


def one_axis(file: h5py.File) -> None:
    file.create_dataset("y", data=ROWS[0])


REFUSED = {
    soft: "'y' is a link",
    external: "'y' is a link",
    external_group: "'g' is a link",
    virtual: "other files",
    stored_elsewhere: "other files",
    own_filter: "the filter 307",
    records: "not one plain number type",
    texts: "not one plain number type",
    truths: "'bool'",
    odd_floats: "layout|dtype",
    never_written: "nothing was written",
    half_written: "5 chunks, but 2 were written",
    wide_lzf: "lzf",
    doubles: "float64",
    one_axis: r"\(6,\)",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_leads_elsewhere_or_is_no_table_is_refused(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "secret.h5")
    (tmp_path / "secret.bin").write_bytes(ROWS.tobytes())
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["x"] = ROWS
        make(file)
    key = "g/x" if make is external_group else "y"
    with pytest.raises(SourceError, match=REFUSED[make]):
        open_source(str(tmp_path / "a.h5"), key=key)


@pytest.mark.parametrize("key", ["../a", "x/../x", ".", "x//y", "a\\b"])
def test_key_stays_inside_the_file(tmp_path: Path, key: str) -> None:
    with pytest.raises(SourceError, match="lead elsewhere"):
        open_source(write(tmp_path / "a.h5"), key=key)


def test_a_chunk_that_unpacks_to_more_than_it_holds_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, chunks=(50, 6), compression="gzip")
    with h5py.File(path, "a") as file:
        file["x"].id.write_direct_chunk((0, 0), zlib.compress(bytes(200 << 20))[:1000])
    source = open_source(str(path))
    tracemalloc.start()
    try:
        with pytest.raises(
            SourceError, match=r"rows 0:50 cannot be read.*unpacks to more than 1456"
        ):
            source.read(0, 50)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_flipped_bit_under_a_checksum_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path, chunks=(50, 6), fletcher32=True)
    data = bytearray(path.read_bytes())
    data[data.index(ROWS.tobytes()) + 77] ^= 4
    path.write_bytes(data)
    with pytest.raises(SourceError, match="rows 0:50"):
        open_source(str(path)).read(0, 50)


@settings(max_examples=60, deadline=None)
@given(
    values=st.binary(min_size=1, max_size=64), width=st.integers(1, 9),
    order=st.permutations([DEFLATE, SHUFFLE, FLETCHER32]), used=st.integers(0, 7),
)  # fmt: skip
def test_filters_are_undone_in_any_order(
    values: bytes, width: int, order: list[int], used: int
) -> None:
    """Packed longhand, filter by filter; a chunk may go without any of them."""
    width = min(width, len(values))
    packed = values
    for index, number in enumerate(order):
        if used >> index & 1:
            continue
        if number == DEFLATE:
            packed = zlib.compress(packed)
        elif number == FLETCHER32:
            packed = bytes(Fletcher32().encode(packed))
        else:
            count = len(packed) // width
            moved = [
                packed[value * width + byte] for byte in range(width) for value in range(count)
            ]
            packed = bytes(moved) + packed[count * width :]
    filters = tuple((number, (width,)) for number in order)
    assert bytes(unpack(packed, filters, used, len(values))) == values


def test_a_file_that_is_cut_or_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write(path)
    whole = path.read_bytes()
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "cut.h5").write_bytes(whole[:-100])
    for name in ("text.h5", "cut.h5", "none.h5"):
        with pytest.raises(SourceError, match=name):
            open_source(str(tmp_path / name))
    source = open_source(str(path))
    path.write_bytes(whole[:-100])
    with pytest.raises(SourceError, match=r"a\.h5"):
        source.read(0, 50)


def test_a_file_that_another_program_writes_is_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    holds = f"import h5py, sys; held = h5py.File({path!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        other.stdout.readline()
        with pytest.raises(SourceError, match="open for writing"):
            open_source(path)
        other.stdin.close()


def test_without_h5py_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SourceError, match=r"pip install 'vqpipe\[hdf5\]'"):
        open_source(path)


def benchmark_file(path: Path, metric: str) -> str:
    """Write a file as ann-benchmarks does, its distances computed longhand."""
    rng = np.random.default_rng(1)
    train, test = rng.standard_normal((300, 8)) + 1, rng.standard_normal((20, 8)) + 1
    apart = np.empty((20, 300))
    for query in range(20):
        for row in range(300):
            a, b = test[query], train[row]
            cosine = a @ b / np.sqrt((a @ a) * (b @ b))
            apart[query, row] = 1 - cosine if metric == "cosine" else np.sqrt(((a - b) ** 2).sum())
    nearest = np.argsort(apart, axis=1)[:, :10]
    with h5py.File(path, "w") as file:
        file.attrs["distance"] = {"l2": "euclidean", "cosine": "angular"}.get(metric, metric)
        file["train"], file["test"] = train.astype("f4"), test.astype("f4")
        file["neighbors"] = nearest.astype("i4")
        file["distances"] = np.take_along_axis(apart, nearest, 1).astype("f4")
    return str(path)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_a_file_of_ann_benchmarks_is_known(tmp_path: Path, metric: str) -> None:
    path = benchmark_file(tmp_path / "a.hdf5", metric)
    source = open_source(path)
    assert (source.rows, source.dim, source.parts[0].key) == (300, 8, "train")
    found = find_benchmark(path)
    assert found is not None
    assert (found.metric, found.is_of(source)) == (metric, True)
    assert not found.is_of(open_source(path, rows=200))
    assert not found.is_of(open_source(path, key="test"))
    assert open_table(path, key="neighbors").dim == 10
    assert find_benchmark(write(tmp_path / "b.hdf5")) is None
    with h5py.File(path, "a") as file:
        file["distances"][0] = 1000.0
    damaged = find_benchmark(path)
    assert damaged is not None
    assert damaged.metric is None

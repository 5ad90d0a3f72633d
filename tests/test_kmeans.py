"""k-means: tallies that add, exact means, dead codewords revived, and when training ends."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.codebook import SURPLUS, Codebook, CodebookSpec
from vqpipe.kmeans.schedule import Schedule, plan_schedule
from vqpipe.kmeans.seeding import first_distinct
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.step import take_step
from vqpipe.kmeans.stopping import next_phase
from vqpipe.kmeans.tally import Tally, squared_errors, tally_rows
from vqpipe.quantizer import Quantizer, Route
from vqpipe.rows import prepare_rows
from vqpipe.shards import batch_slices

ROUTE = Route("product", 256)


def random_case(
    rows: int, m: int, k: int, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, labels and centroids without any relation between them."""
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((rows, m * width)).astype(np.float32),
        rng.integers(0, k, (rows, m)),
        rng.standard_normal((m, k, width)).astype(np.float32),
    )


def start(vectors: np.ndarray, m: int, k: int, kind: str = "KM", metric: str = "l2") -> TrainState:
    """Return the state before the first round, seeded as the train stage does."""
    prepared, _ = prepare_rows(vectors, metric)  # type: ignore[arg-type]
    centroids, _ = first_distinct([prepared], m, k)
    offset = np.zeros(vectors.shape[1], dtype=np.float32)
    if metric == "l2":
        offset = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return TrainState.begin(Codebook(kind, metric, offset, centroids[None]))  # type: ignore[arg-type]


def tally_of(state: TrainState, vectors: np.ndarray) -> Tally:
    quantizer = Quantizer(state.codebook, ROUTE)
    prepared, _ = prepare_rows(vectors, state.codebook.metric)
    return quantizer.tally(quantizer.centre(prepared))


def train(
    state: TrainState, vectors: np.ndarray, batch_rows: int | None = None, rounds: int = 40
) -> TrainState:
    """Train to the end as the train stage does, without held-out rows."""
    schedule = plan_schedule(state.codebook.spec, len(vectors), batch_rows, rounds)
    while state.phase != "finished":
        total: Tally | None = None
        for piece in batch_slices(state.round, schedule.batch_rows, 1024, len(vectors)):
            part = tally_of(state, vectors[piece.start : piece.stop])
            total = part if total is None else total + part
        assert total is not None
        decay = schedule.decay if state.phase == "forgetting" else 1.0
        state = take_step(state, total, decay, seed=0).state
        phase = next_phase(state, schedule, stop=0)
        if phase == "averaging" != state.phase:
            state = replace(state, averaging_from=state.round)
        state = replace(state, phase=phase)
    return state


def distinct_codewords(state: TrainState) -> int:
    return len(np.unique(state.codebook.centroids[0, 0], axis=0))


CASE = {
    "rows": st.integers(1, 600),
    "m": st.integers(1, 4),
    "k": st.integers(1, 20),
    "width": st.integers(1, 5),
    "seed": st.integers(0, 10**6),
}


@settings(max_examples=40, deadline=None)
@given(**CASE)
def test_tally_equals_longhand_loops(rows: int, m: int, k: int, width: int, seed: int) -> None:
    vectors, labels, centroids = random_case(rows, m, k, width, seed)
    sums = np.zeros((m * k, width))
    counts = [0] * (m * k)
    errors = [0.0] * (m * k)
    for vector, label in zip(vectors.astype(np.float64), labels, strict=True):
        for column in range(m):
            place = column * k + int(label[column])
            part = vector[column * width : (column + 1) * width]
            sums[place] += part
            counts[place] += 1
            errors[place] += float(
                ((part - centroids[column, label[column]].astype(np.float64)) ** 2).sum()
            )
    touched = [place for place in range(m * k) if counts[place]]
    tally = tally_rows(vectors, labels, centroids)
    assert tally.touched.tolist() == touched
    assert tally.counts.tolist() == [counts[place] for place in touched]
    assert tally.rows == rows
    np.testing.assert_allclose(tally.sums, sums[touched], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        tally.squared_error, [errors[place] for place in touched], rtol=1e-12
    )
    assert tally.distortion == pytest.approx(sum(errors) / rows, rel=1e-12)
    assert tally.sums.dtype == tally.squared_error.dtype == np.float64
    assert tally.counts.dtype == np.int64
    by_row = squared_errors(vectors, labels, centroids)
    assert by_row.shape == (rows, m)
    assert float(by_row.sum()) == pytest.approx(sum(errors), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(**CASE, data=st.data())
def test_tallies_of_parts_add_up_to_the_tally_of_all(
    rows: int, m: int, k: int, width: int, seed: int, data: st.DataObject
) -> None:
    vectors, labels, centroids = random_case(rows, m, k, width, seed)
    whole = tally_rows(vectors, labels, centroids)
    cut, end = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    a, b, c = (
        tally_rows(vectors[part], labels[part], centroids)
        for part in (slice(0, cut), slice(cut, end), slice(end, rows))
    )
    for summed in ((a + b) + c, a + (b + c), c + (b + a)):
        assert summed.touched.tolist() == whole.touched.tolist()
        assert summed.counts.tolist() == whole.counts.tolist()
        assert summed.rows == whole.rows
        np.testing.assert_allclose(summed.sums, whole.sums, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(summed.squared_error, whole.squared_error, rtol=1e-11)


@settings(max_examples=25, deadline=None)
@given(
    m=st.integers(1, 3),
    k=st.integers(1, 12),
    width=st.integers(1, 4),
    place=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 10**6),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_the_first_full_batch_moves_codewords_to_the_exact_means_of_their_rows(
    m: int, k: int, width: int, place: float, seed: int, decay: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = (place + rng.standard_normal((300, m * width))).astype(np.float32)
    state = start(vectors, m, k, "KM" if m == 1 else "PQ")
    labels = Quantizer(state.codebook, ROUTE).assign(vectors - state.codebook.offset)
    step = take_step(state, tally_of(state, vectors), decay, seed=0)
    # Every codeword is a row, which chooses it: none is dead.
    assert (step.dead, step.moved) == (0, 0)
    for column in range(m):
        part = vectors[:, column * width : (column + 1) * width].astype(np.float64)
        for code in range(k):
            mean = part[labels[:, column] == code].mean(axis=0)
            moved = step.state.codebook.centroids[0, column, code]
            np.testing.assert_allclose(moved, mean, rtol=1e-6, atol=1e-6)


def test_decay_zero_forgets_all_earlier_rows() -> None:
    """After any past, a step on a full batch gives the means of that batch alone."""
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((2000, 3)).astype(np.float32)
    state = start(vectors, 1, 6)
    tally = tally_of(state, vectors)
    past = replace(state, sums=rng.standard_normal((1, 6, 3)) * 1e6, weights=np.full((1, 6), 1e5))
    past = replace(past, round=9)
    np.testing.assert_array_equal(
        take_step(past, tally, 0.0, 0).state.codebook.centroids,
        take_step(state, tally, 1.0, 0).state.codebook.centroids,
    )


def test_statistics_are_decayed_sums_and_counts_over_all_batches() -> None:
    """Longhand: after batches 0..n the weight is the sum of decay^(n - i) * counts_i."""
    rng = np.random.default_rng(6)
    centroids = rng.standard_normal((1, 1, 4, 2)).astype(np.float32)
    state = TrainState.begin(Codebook("KM", "l2", np.zeros(2, np.float32), centroids))
    sums, weights = np.zeros((4, 2)), np.zeros(4)
    for decay in (0.5, 0.25, 1.0, 1.0):
        vectors = rng.standard_normal((500, 2)).astype(np.float32)
        tally = tally_of(state, vectors)
        assert len(tally.touched) == 4
        labels = Quantizer(state.codebook, ROUTE).assign(vectors)[:, 0]
        sums, weights = sums * decay, weights * decay
        for vector, label in zip(vectors.astype(np.float64), labels, strict=True):
            sums[label] += vector
            weights[label] += 1
        state = take_step(state, tally, decay, seed=0).state
        np.testing.assert_allclose(state.weights[0], weights, rtol=1e-12)
        np.testing.assert_allclose(state.sums[0], sums, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            state.codebook.centroids[0, 0], sums / weights[:, None], rtol=1e-5, atol=1e-6
        )


def test_a_step_leaves_the_state_and_the_tally_it_was_given_as_they_are() -> None:
    vectors = np.random.default_rng(7).standard_normal((400, 4)).astype(np.float32)
    state = start(vectors, 2, 8, "PQ")
    tally = tally_of(state, vectors)
    before = (state.to_bytes(), tally.sums.copy(), tally.counts.copy())
    take_step(state, tally, 0.5, seed=0)
    assert state.to_bytes() == before[0]
    np.testing.assert_array_equal(tally.sums, before[1])
    np.testing.assert_array_equal(tally.counts, before[2])


@pytest.mark.parametrize(("kind", "m"), [("KM", 1), ("PQ", 3)])
@pytest.mark.parametrize("place", [0.0, 1000.0])
def test_distortion_of_full_batches_never_rises(kind: str, m: int, place: float) -> None:
    rng = np.random.default_rng(8)
    vectors = (place + rng.standard_normal((1500, 6))).astype(np.float32)
    state = start(vectors, m, 10, kind)
    distortions: list[float] = []
    for _ in range(15):
        tally = tally_of(state, vectors)
        distortions.append(tally.distortion)
        step = take_step(state, tally, 0.0, seed=0)
        assert step.moved == 0
        state = step.state
    # Codewords are stored in float32, at whatever place the data is.
    slack = 1e-6 * distortions[0] * max(1.0, place / 100)
    for now, later in itertools.pairwise(distortions):
        assert later <= now + slack
    assert distortions[-1] < 0.8 * distortions[0]


def dead_state(place: float, k: int, dead: int) -> tuple[TrainState, np.ndarray]:
    """Return codewords of which the last few are nearest to no row."""
    rng = np.random.default_rng(9)
    vectors = (place + rng.standard_normal((3000, 3))).astype(np.float32)
    centroids = vectors[:k].copy()
    centroids[k - dead :] += np.float32(1e4)
    offset = np.full(3, place, dtype=np.float32)
    return TrainState.begin(Codebook("KM", "l2", offset, centroids[None, None])), vectors


@pytest.mark.parametrize("place", [0.0, 100.0])
@pytest.mark.parametrize("dead", [1, 5, 10])
def test_dead_codewords_are_revived_beside_those_with_the_largest_error(
    place: float, dead: int
) -> None:
    """Both of a pair forget their statistics and stand on either side of the crowded one's mean."""
    k = 20
    state, vectors = dead_state(place, k, dead)
    tally = tally_of(state, vectors)
    step = take_step(state, tally, 0.5, seed=0)
    assert step.dead == step.moved == dead
    errors = np.zeros(k)
    errors[tally.touched] = tally.squared_error
    crowded = set(np.argsort(-errors)[:dead].tolist())
    reset = set(np.flatnonzero(step.state.weights[0] == 0).tolist())
    assert reset == crowded | set(range(k - dead, k))
    assert not step.state.sums[0, sorted(reset)].any()
    placed = step.state.codebook.centroids[0, 0].astype(np.float64) - place
    assert distinct_codewords(step.state) == k
    assert np.isfinite(placed).all()
    assert (np.linalg.norm(placed, axis=1) < 10).all()
    place_of = {int(code): at for at, code in enumerate(tally.touched)}
    for code in crowded:
        mean = tally.sums[place_of[code]] / tally.counts[place_of[code]]
        halves = (placed[code] + placed[k - dead :]) / 2
        assert np.abs(halves - mean).max(axis=1).min() < 1e-4
    assert take_step(state, tally, 0.5, seed=1).state.to_bytes() != step.state.to_bytes()
    assert take_step(state, tally, 0.5, seed=0).state.to_bytes() == step.state.to_bytes()


def test_a_codeword_is_revived_in_another_direction_every_round() -> None:
    """One that was put in a bad place is not put in the same one again."""
    state, vectors = dead_state(0.0, 20, 1)
    tally = tally_of(state, vectors)
    revived = [
        take_step(replace(state, round=taken), tally, 0.5, seed=0).state.codebook.centroids[
            0, 0, -1
        ]
        for taken in range(10)
    ]
    assert len(np.unique(np.array(revived), axis=0)) == 10


def test_no_codeword_is_revived_while_averaging() -> None:
    state, vectors = dead_state(0.0, 20, 3)
    state = replace(state, round=30, phase="averaging")
    step = take_step(state, tally_of(state, vectors), 1.0, seed=0)
    assert (step.dead, step.moved) == (3, 0)
    np.testing.assert_allclose(
        step.state.codebook.centroids[0, 0, -3:], state.codebook.centroids[0, 0, -3:], rtol=1e-6
    )


@pytest.mark.parametrize("dead", [1, 10, 19])
def test_after_a_few_rounds_every_revived_codeword_is_in_use(dead: int) -> None:
    state, vectors = dead_state(0.0, 20, dead)
    for _ in range(8):
        state = take_step(state, tally_of(state, vectors), 0.5, seed=0).state
    assert len(tally_of(state, vectors).touched) == 20
    assert distinct_codewords(state) == 20


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.9])
def test_a_codeword_that_no_row_chooses_and_that_is_not_revived_stays_where_it_is(
    decay: float,
) -> None:
    """However long nobody chooses it: rows elsewhere without an error give it nothing to split."""
    centroids = np.float32([[[[0.3, -0.7], [0.1, 0.9]]]])
    state = TrainState.begin(Codebook("KM", "l2", np.zeros(2, np.float32), centroids))
    both = np.repeat(centroids[0, 0], 10, axis=0)
    state = take_step(state, tally_of(state, both), decay, seed=0).state
    for _ in range(1100):
        state = take_step(state, tally_of(state, both[:10]), decay, seed=0).state
        np.testing.assert_allclose(state.codebook.centroids, centroids, rtol=1e-6)


@pytest.mark.parametrize("place", [0.0, 10.0, 1000.0])
@pytest.mark.parametrize("copied", [1, 5])
@pytest.mark.parametrize("batch_rows", [None, 200])
def test_with_four_fifths_duplicates_all_codewords_are_distinct_and_sound(
    place: float, copied: int, batch_rows: int | None
) -> None:
    rng = np.random.default_rng(10)
    vectors = (place + rng.standard_normal((1000, 4))).astype(np.float32)
    vectors[:800] = vectors[800 : 800 + copied][rng.integers(0, copied, 800)]
    vectors = vectors[rng.permutation(1000)]
    state = start(vectors, 1, 64)
    state = train(state, vectors, batch_rows)
    centroids = state.codebook.centroids
    assert distinct_codewords(state) == 64
    assert np.isfinite(centroids).all()
    assert (np.abs(centroids.astype(np.float64) - place).max(axis=-1) > 1e-9).all()
    assert (np.abs(centroids.astype(np.float64) - place) < 10).all()


@pytest.mark.parametrize("place", [0.0, 1000.0])
@pytest.mark.parametrize("batch_rows", [None, 64])
def test_as_many_codewords_as_distinct_rows_are_those_rows(
    place: float, batch_rows: int | None
) -> None:
    """Nothing is left to learn: rounding gives no codeword an error to share."""
    rng = np.random.default_rng(11)
    distinct = (place + rng.standard_normal((50, 4))).astype(np.float32)
    vectors = distinct[rng.permutation(np.repeat(np.arange(50), 6))]
    state = train(start(vectors, 1, 50), vectors, batch_rows)
    assert distinct_codewords(state) == 50
    assert tally_of(state, vectors).distortion < 1e-12 * max(1.0, place**2)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_one_codeword_is_the_mean(metric: str) -> None:
    vectors = (3 + np.random.default_rng(12).standard_normal((500, 4))).astype(np.float32)
    state = train(start(vectors, 1, 1, metric=metric), vectors)
    prepared = prepare_rows(vectors, metric)[0].astype(np.float64)  # type: ignore[arg-type]
    mean = prepared.mean(axis=0)
    if metric == "cosine":
        mean /= np.linalg.norm(mean)
    np.testing.assert_allclose(state.codebook.centroids[0, 0, 0], mean, rtol=1e-6)


def test_all_rows_equal_gives_one_codeword_on_them_and_the_rest_as_surplus() -> None:
    vectors = np.tile(np.float32([1.5, -2.25, 3.0, 0.1]), (200, 1))
    state = start(vectors, 2, 4, "PQ")
    state = train(state, vectors, batch_rows=64)
    centroids = state.codebook.centroids[0]
    np.testing.assert_allclose(centroids[:, 0].ravel(), vectors[0], rtol=1e-6)
    assert (centroids[:, 1:] == SURPLUS).all()
    assert not Quantizer(state.codebook, ROUTE).encode(vectors).any()


def test_surplus_codewords_are_neither_dead_nor_moved_whatever_happens() -> None:
    """A constant column of a PQ codebook, beside one that learns."""
    rng = np.random.default_rng(13)
    vectors = rng.standard_normal((1000, 4)).astype(np.float32)
    vectors[:, :2] = 7.0
    state = start(vectors, 2, 8, "PQ")
    step = take_step(state, tally_of(state, vectors), 0.5, seed=0)
    assert (step.dead, step.moved) == (0, 0)
    state = train(state, vectors)
    assert (state.codebook.centroids[0, 0, 1:] == SURPLUS).all()
    np.testing.assert_array_equal(state.codebook.centroids[0, 0, 0], [7, 7])
    assert np.abs(state.codebook.centroids[0, 1]).max() < 5


def test_surplus_codewords_stay_surplus_even_where_codewords_are_normalised() -> None:
    vectors = np.random.default_rng(20).standard_normal((200, 3)).astype(np.float32)
    centroids = np.full((1, 1, 4, 3), SURPLUS, dtype=np.float32)
    centroids[0, 0, :2] = prepare_rows(vectors[:2], "cosine")[0]
    state = TrainState.begin(Codebook("KM", "cosine", np.zeros(3, np.float32), centroids))
    stepped = take_step(state, tally_of(state, vectors), 0.5, seed=0).state.codebook
    assert (stepped.centroids[0, 0, 2:] == SURPLUS).all()
    np.testing.assert_allclose(np.linalg.norm(stepped.centroids[0, 0, :2], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("rounds", [1, 5])
def test_cosine_km_codewords_have_norm_one_after_a_step(rounds: int) -> None:
    rng = np.random.default_rng(14)
    vectors = (rng.standard_normal((2000, 5)) * rng.uniform(0.01, 50, (2000, 1))).astype(np.float32)
    state = start(vectors, 1, 32, metric="cosine")
    for _ in range(rounds):
        state = take_step(state, tally_of(state, vectors), 0.3, seed=0).state
        norms = np.linalg.norm(state.codebook.centroids[0, 0].astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_revived_cosine_codewords_have_norm_one_too() -> None:
    rng = np.random.default_rng(15)
    vectors = (np.float32([4, 0, 0]) + rng.standard_normal((2000, 3))).astype(np.float32)
    centroids = np.tile(np.float32([-1, 0, 0]), (6, 1))
    centroids[:3] = prepare_rows(vectors[:3], "cosine")[0]
    codebook = Codebook("KM", "cosine", np.zeros(3, np.float32), centroids[None, None])
    step = take_step(
        TrainState.begin(codebook), tally_of(TrainState.begin(codebook), vectors), 0.5, seed=0
    )
    assert step.moved >= 2
    norms = np.linalg.norm(step.state.codebook.centroids[0, 0].astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_cosine_sub_codewords_are_not_renormalised() -> None:
    vectors = np.random.default_rng(16).standard_normal((1000, 6)).astype(np.float32)
    state = start(vectors, 2, 4, "PQ", "cosine")
    tally = tally_of(state, vectors)
    stepped = take_step(state, tally, 0.5, seed=0).state.codebook.centroids[0]
    means = (tally.sums / tally.counts[:, None]).reshape(2, 4, 3)
    np.testing.assert_allclose(stepped, means, rtol=1e-6)


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-2, 2), min_size=1, max_size=40),
    k=st.integers(1, 8),
    cuts=st.lists(st.integers(1, 10), min_size=1, max_size=40),
    m=st.integers(1, 2),
)
def test_seeding_takes_the_first_distinct_sub_vectors_however_the_stream_is_cut(
    values: list[int], k: int, cuts: list[int], m: int
) -> None:
    rows = np.array([[value, -2 * value] for value in values], dtype=np.float32)
    # The negative zeros are the same place as the positive ones.
    rows[::2][rows[::2] == 0] = -0.0
    pieces, position = [], 0
    for cut in [*cuts, len(rows)]:
        pieces.append(rows[position : position + cut])
        position += cut
    centroids, distinct = first_distinct([piece for piece in pieces if len(piece)], m, k)
    assert centroids.shape == (m, k, 2 // m)
    assert centroids.dtype == np.float32
    for column in range(m):
        part = [tuple(row) for row in np.split(rows, m, axis=1)[column].tolist()]
        longhand = list(dict.fromkeys(part))[:k]
        assert distinct[column] == len(longhand)
        assert [tuple(row) for row in centroids[column].tolist()][: len(longhand)] == longhand
        assert (centroids[column, len(longhand) :] == np.float32(1e18)).all()


def test_seeding_reads_the_stream_no_further_than_it_must() -> None:
    read: list[int] = []

    def pieces() -> object:
        for start_row in range(0, 1000, 10):
            read.append(start_row)
            yield np.arange(start_row, start_row + 10, dtype=np.float32)[:, None]

    first_distinct(pieces(), 1, 25)  # type: ignore[arg-type]
    assert read == [0, 10, 20]


def a_state(m: int = 2, k: int = 3, width: int = 2, records: int = 2, seed: int = 17) -> TrainState:
    """Return a state in the middle of a training."""
    rng = np.random.default_rng(seed)
    codebook = Codebook(
        "PQ",
        "cosine",
        rng.standard_normal(m * width).astype(np.float32),
        rng.standard_normal((1, m, k, width)).astype(np.float32),
    )
    history = tuple(
        RoundRecord(
            number, number * 10, rng.random() / 3, rng.random() if number % 2 else None, 1, 2
        )
        for number in range(records)
    )
    return TrainState(
        codebook,
        rng.standard_normal((m, k, width)) * 1e-300,
        rng.random((m, k)),
        records,
        "averaging",
        1,
        history,
    )


def facts_of(state: TrainState) -> tuple[object, ...]:
    """Return all that a state holds, bit for bit."""
    codebook = state.codebook
    return (
        codebook.digest,
        *((a.shape, str(a.dtype), a.tobytes()) for a in (state.sums, state.weights)),
        state.round,
        state.phase,
        state.averaging_from,
        tuple(tuple(asdict(record).items()) for record in state.history),
    )


@settings(deadline=None, max_examples=20)
@given(
    m=st.integers(1, 3),
    k=st.integers(1, 9),
    width=st.integers(1, 4),
    records=st.integers(0, 5),
    seed=st.integers(0, 99),
)
def test_a_state_comes_back_from_its_bytes_exactly(
    m: int, k: int, width: int, records: int, seed: int
) -> None:
    state = a_state(m, k, width, records, seed)
    assert facts_of(TrainState.from_bytes(state.to_bytes())) == facts_of(state)


def test_a_resumed_training_ends_with_the_same_bytes() -> None:
    vectors = np.random.default_rng(18).standard_normal((2000, 4)).astype(np.float32)
    state = start(vectors, 1, 16)
    half = state
    for batch in range(5):
        piece = vectors[batch * 300 : batch * 300 + 300]
        half = take_step(half, tally_of(half, piece), 0.5, seed=3).state
    resumed = TrainState.from_bytes(half.to_bytes())
    assert train(resumed, vectors, 300).to_bytes() == train(half, vectors, 300).to_bytes()


def test_bytes_cut_short_raise() -> None:
    data = a_state().to_bytes()
    for length in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(Exception, match=r"."):
            TrainState.from_bytes(data[:length])


def test_damaged_bytes_raise_or_do_no_harm() -> None:
    """A byte that is changed anywhere is noticed, unless it changes nothing of the state."""
    state = a_state()
    data, facts = state.to_bytes(), facts_of(state)
    unnoticed = []
    for place in range(0, len(data), 3):
        for flip in (0x01, 0x04, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= flip
            try:
                read = TrainState.from_bytes(bytes(damaged))
            except Exception:
                continue
            if facts_of(read) != facts:
                unnoticed.append((place, flip))
    assert not unnoticed


def test_bytes_of_something_else_raise_what_the_docstring_names() -> None:
    for data in (b"", b"not a checkpoint", b"PK\x03\x04" + bytes(200), bytes(1000)):
        with pytest.raises((ValueError, KeyError, OSError)):
            TrainState.from_bytes(data)


def walk(schedule: Schedule, stop: float, heldout: list[float]) -> list[str]:
    """Return the phase that each round belonged to, with these held-out distortions in turn."""
    state = a_state(records=0)
    state = replace(state, phase="forgetting", averaging_from=0)
    looks = iter(heldout)
    phases: list[str] = []
    while state.phase != "finished" and len(phases) < 10_000:
        phases.append(state.phase)
        taken = state.round + 1
        look = next(looks, heldout[-1]) if taken % schedule.check_rounds == 0 else None
        record = RoundRecord(taken, taken * schedule.batch_rows, 1.0, look, 0, 0)
        state = replace(state, round=taken).recorded(record)
        phase = next_phase(state, schedule, stop)
        if phase == "averaging" != state.phase:
            state = replace(state, averaging_from=taken)
        state = replace(state, phase=phase)
    return phases


@settings(deadline=None, max_examples=50)
@given(rounds=st.integers(1, 300), rows=st.integers(1, 10**6), batch=st.integers(1, 10**5))
def test_without_a_stop_rule_every_planned_round_is_taken(
    rounds: int, rows: int, batch: int
) -> None:
    schedule = Schedule(rows, min(batch, rows), rounds, 0.5)
    phases = walk(schedule, 0.0, [1.0])
    assert len(phases) == rounds
    assert phases.count("forgetting") == schedule.forgetting_rounds
    # Averaging follows forgetting and nothing follows averaging.
    assert phases == sorted(phases, reverse=True)


def test_a_flat_heldout_curve_ends_training_early_but_not_before_a_whole_pass() -> None:
    schedule = Schedule(rows=10_000, batch_rows=1000, rounds=200, decay=0.5)
    phases = walk(schedule, 0.001, [1.0])
    assert phases.count("averaging") >= 1
    assert 10 <= phases.count("forgetting") < 20
    assert len(phases) < 40


def test_a_falling_heldout_curve_takes_every_planned_round() -> None:
    schedule = Schedule(rows=10_000, batch_rows=1000, rounds=200, decay=0.5)
    falling = [0.99**look for look in range(1000)]
    assert len(walk(schedule, 0.001, falling)) == 200


def test_the_stop_rule_compares_whole_passes() -> None:
    """A curve that falls by less than the threshold a pass ends; by more, it goes on."""
    schedule = Schedule(rows=8000, batch_rows=1000, rounds=1000, decay=0.5)
    looks_a_pass = 8 / schedule.check_rounds
    for share, goes_on in ((0.5, False), (2.0, True)):
        step = (1 - 0.01 * share) ** (1 / looks_a_pass)
        curve = [step**look for look in range(3000)]
        assert (len(walk(schedule, 0.01, curve)) == 1000) == goes_on


def test_averaging_shrinks_in_proportion_when_forgetting_ends_early() -> None:
    schedule = Schedule(rows=10_000, batch_rows=1000, rounds=200, decay=0.5)
    flat_then_falling = [1.0] * 6 + [0.9**look for look in range(1000)]
    phases = walk(schedule, 0.001, flat_then_falling)
    forgetting, averaging = phases.count("forgetting"), phases.count("averaging")
    assert forgetting < schedule.forgetting_rounds
    planned = schedule.averaging_rounds / schedule.forgetting_rounds
    assert averaging == pytest.approx(planned * forgetting, abs=1)


@settings(deadline=None)
@given(
    k=st.integers(1, 1 << 20),
    rows=st.integers(1, 10**9),
    batch_rows=st.none() | st.integers(1, 10**7),
    rounds=st.none() | st.integers(1, 10**4),
)
def test_a_schedule_keeps_what_the_config_says_and_its_own_promises(
    k: int, rows: int, batch_rows: int | None, rounds: int | None
) -> None:
    schedule = plan_schedule(CodebookSpec("KM", 1, k), rows, batch_rows, rounds)
    assert 1 <= schedule.batch_rows <= rows
    assert 0 <= schedule.decay < 1
    assert schedule.forgetting_rounds + schedule.averaging_rounds == schedule.rounds
    assert schedule.check_rounds >= 1
    assert schedule.batch_rows == min(batch_rows or max(8192, 16 * k), rows)
    if rounds is None:
        assert schedule.rounds >= 40
        # At most six passes, but for the least number of rounds.
        assert schedule.rounds == 40 or (schedule.rounds - 1) * schedule.batch_rows < 6 * rows
    else:
        assert schedule.rounds == rounds
    # In the long run the statistics hold batch / (1 - decay) rows: 20 a codeword, or one batch.
    memory = schedule.batch_rows / (1 - schedule.decay)
    assert memory == pytest.approx(max(20 * k, schedule.batch_rows), rel=1e-6)


@pytest.mark.parametrize("batch_rows", [1000, 4000])
def test_training_ends_where_full_lloyd_iterations_end(batch_rows: int) -> None:
    """Within 3% of 25 iterations over all rows from the same first codewords, longhand in float64."""
    rng = np.random.default_rng(19)
    vectors = (rng.standard_normal((20, 4)) * 3)[rng.integers(0, 20, 8000)]
    vectors = (vectors + rng.standard_normal((8000, 4))).astype(np.float32)
    state = start(vectors, 1, 48)
    wide = vectors.astype(np.float64)
    codewords = state.codebook.centroids[0, 0].astype(np.float64)
    for _ in range(26):
        distances = ((wide[:, None] - codewords) ** 2).sum(axis=2)
        nearest = distances.argmin(axis=1)
        full = float(distances.min(axis=1).mean())
        codewords = np.array([wide[nearest == code].mean(axis=0) for code in range(48)])
    trained = tally_of(train(state, vectors, batch_rows), vectors).distortion
    assert trained < 1.03 * full

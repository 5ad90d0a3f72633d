"""k-means: tallies that add, exact means, dead codewords revived, and when training ends."""

from __future__ import annotations

import io
import itertools
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqpipe.codebook import SURPLUS, Codebook
from vqpipe.kmeans import step as stepping
from vqpipe.kmeans.moves import distances_to_nearest
from vqpipe.kmeans.schedule import plan_schedule
from vqpipe.kmeans.seeding import first_distinct
from vqpipe.kmeans.state import RoundRecord, TrainState
from vqpipe.kmeans.step import Step
from vqpipe.kmeans.stopping import next_phase
from vqpipe.kmeans.tally import Tally, squared_errors, tally_rows
from vqpipe.quantizer import Quantizer, Route
from vqpipe.rows import prepare_rows
from vqpipe.shards import batch_slices

ROUTE = Route("product", 256)


def take_step(state: TrainState, *arguments: Any, **named: Any) -> Step:
    """Take a step from a copy: a step spends the state that it is given."""
    copied = {name: getattr(state, name).copy() for name in ("sums", "weights", "errors")}
    return stepping.take_step(replace(state, **copied), *arguments, **named)


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
        start, batch = schedule.starts[state.round], schedule.batches[state.round]
        for piece in batch_slices(start, batch, 1024, len(vectors)):
            part = tally_of(state, vectors[piece.start : piece.stop])
            total = part if total is None else total + part
        assert total is not None
        forgetting = state.phase == "forgetting"
        decay = (schedule.decay if forgetting else schedule.averaging_decay)(state.round)
        state = take_step(state, total, decay, seed=0, moves=forgetting).state
        state = next_phase(state, schedule, stop=0)
    return state


def bytes_of(state: TrainState) -> bytes:
    file = io.BytesIO()
    state.write(file)
    return file.getvalue()


def read_state(data: bytes) -> TrainState:
    return TrainState.read(io.BytesIO(data))


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
    step = take_step(state, tally_of(state, vectors), decay, seed=0, moves=False)
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
        take_step(past, tally, 0.0, seed=0, moves=True).state.codebook.centroids,
        take_step(state, tally, 1.0, seed=0, moves=True).state.codebook.centroids,
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
        state = take_step(state, tally, decay, seed=0, moves=True).state
        np.testing.assert_allclose(state.weights[0], weights, rtol=1e-12)
        np.testing.assert_allclose(state.sums[0], sums, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(
            state.codebook.centroids[0, 0], sums / weights[:, None], rtol=1e-5, atol=1e-6
        )


def test_a_step_leaves_the_tally_and_the_codebook_it_was_given_as_they_are() -> None:
    vectors = np.random.default_rng(7).standard_normal((400, 4)).astype(np.float32)
    state = start(vectors, 2, 8, "PQ")
    tally = tally_of(state, vectors)
    before = (state.codebook.digest, tally.sums.copy(), tally.counts.copy())
    centroids = state.codebook.centroids.copy()
    stepping.take_step(state, tally, 0.5, seed=0, moves=True)
    assert state.codebook.digest == before[0]
    np.testing.assert_array_equal(state.codebook.centroids, centroids)
    np.testing.assert_array_equal(tally.sums, before[1])
    np.testing.assert_array_equal(tally.counts, before[2])


@pytest.mark.parametrize(
    ("kind", "m", "metric", "place"),
    [
        ("KM", 1, "l2", 0.0),
        ("KM", 1, "l2", 1000.0),
        ("PQ", 3, "l2", 0.0),
        ("PQ", 3, "l2", 1000.0),
        ("KM", 1, "cosine", 0.0),
        ("KM", 1, "cosine", 1.0),
        ("PQ", 3, "cosine", 1.0),
    ],
)
def test_distortion_of_full_batches_never_rises(
    kind: str, m: int, metric: str, place: float
) -> None:
    """Under cosine the renormalised mean is the best unit codeword of its rows."""
    rng = np.random.default_rng(8)
    vectors = (place + rng.standard_normal((1500, 6))).astype(np.float32)
    state = start(vectors, m, 10, kind, metric)
    distortions: list[float] = []
    for _ in range(15):
        tally = tally_of(state, vectors)
        distortions.append(tally.distortion)
        step = take_step(state, tally, 0.0, seed=0, moves=True)
        assert step.moved == 0
        state = step.state
    # Codewords are stored in float32, at whatever place the data is.
    slack = 1e-6 * distortions[0] * max(1.0, place / 100)
    for now, later in itertools.pairwise(distortions):
        assert later <= now + slack
    assert distortions[-1] < (0.8 if metric == "l2" else 0.9) * distortions[0]


def dead_state(place: float, k: int, dead: int) -> tuple[TrainState, np.ndarray]:
    """Return codewords of which the last few are nearest to no row."""
    rng = np.random.default_rng(9)
    vectors = (place + rng.standard_normal((3000, 3))).astype(np.float32)
    centroids = vectors[:k].copy()
    centroids[k - dead :] += np.float32(1e4)
    offset = np.full(3, place, dtype=np.float32)
    return TrainState.begin(Codebook("KM", "l2", offset, centroids[None, None])), vectors


@pytest.mark.parametrize("place", [0.0, 100.0])
@pytest.mark.parametrize("dead", [1, 5, 9])
def test_dead_codewords_share_the_rows_of_those_with_the_largest_error(
    place: float, dead: int
) -> None:
    """Of a pair each has half of what was known, on either side of the crowded one's mean."""
    k = 20
    state, vectors = dead_state(place, k, dead)
    tally = tally_of(state, vectors)
    step = take_step(state, tally, 0.5, seed=0, moves=True)
    still = take_step(state, tally, 0.5, seed=0, moves=False)
    assert step.moved == still.dead == dead
    assert step.dead == still.moved == 0
    errors = still.state.errors[0]
    crowded = np.argsort(-errors)[:dead]
    np.testing.assert_allclose(
        step.state.weights[0, crowded], still.state.weights[0, crowded] / 2, rtol=1e-12
    )
    assert step.state.weights.sum() == pytest.approx(len(vectors), rel=1e-12)
    assert step.state.errors.sum() == pytest.approx(errors.sum(), rel=1e-12)
    np.testing.assert_allclose(
        step.state.sums.sum(axis=1), still.state.sums.sum(axis=1), rtol=1e-9, atol=1e-9
    )
    placed = step.state.codebook.centroids[0, 0].astype(np.float64) - place
    assert distinct_codewords(step.state) == k
    assert np.isfinite(placed).all()
    assert (np.linalg.norm(placed, axis=1) < 10).all()
    for code in crowded:
        mean = still.state.sums[0, code] / still.state.weights[0, code]
        halves = (placed[code] + placed[k - dead :]) / 2
        assert np.abs(halves - mean).max(axis=1).min() < 1e-4
    for seed, same in ((0, True), (1, False)):
        again = take_step(state, tally, 0.5, seed=seed, moves=True).state
        assert (bytes_of(again) == bytes_of(step.state)) == same


def test_a_codeword_is_moved_in_another_direction_every_round() -> None:
    """One that was put in a bad place is not put in the same one again."""
    state, vectors = dead_state(0.0, 20, 1)
    tally = tally_of(state, vectors)
    steps = [
        take_step(replace(state, round=taken), tally, 0.5, seed=0, moves=True)
        for taken in range(10)
    ]
    places = [step.state.codebook.centroids[0, 0, -1] for step in steps]
    assert len(np.unique(np.array(places), axis=0)) == 10


def test_a_starved_codeword_is_kept_where_its_rows_would_be_far_from_any_other() -> None:
    """Three rows far off cost more without their codeword than a crowded cluster gains by a second."""
    rng = np.random.default_rng(21)
    vectors = rng.standard_normal((3000, 3)).astype(np.float32)
    vectors[:3] += np.float32(100)
    centroids = np.concatenate([vectors[:1], vectors[100:110]])
    codebook = Codebook("KM", "l2", np.zeros(3, np.float32), centroids[None, None])
    far = TrainState.begin(codebook)
    step = take_step(far, tally_of(far, vectors), 0.5, seed=0, moves=True)
    assert step.state.weights[0, 0] == 3
    assert step.moved == 0
    # Without them it stands for nothing.
    assert take_step(far, tally_of(far, vectors[3:]), 0.5, seed=0, moves=True).moved == 1


def test_with_too_few_rows_a_codeword_nobody_is_called_starved() -> None:
    state, vectors = dead_state(0.0, 20, 3)
    assert take_step(state, tally_of(state, vectors[:99]), 0.5, seed=0, moves=True).moved == 0
    assert take_step(state, tally_of(state, vectors[:300]), 0.5, seed=0, moves=True).moved == 3


@pytest.mark.parametrize("dead", [1, 10, 15])
def test_after_a_few_rounds_every_moved_codeword_is_in_use(dead: int) -> None:
    state, vectors = dead_state(0.0, 20, dead)
    for _ in range(8):
        state = take_step(state, tally_of(state, vectors), 0.5, seed=0, moves=True).state
    assert len(tally_of(state, vectors).touched) == 20
    assert distinct_codewords(state) == 20


@settings(deadline=None, max_examples=30)
@given(
    k=st.integers(2, 40),
    width=st.integers(1, 4),
    place=st.sampled_from([0.0, 50.0]),
    seed=st.integers(0, 10**6),
)
def test_distances_to_the_nearest_codeword_are_those_of_longhand(
    k: int, width: int, place: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    centroids = (place + rng.standard_normal((k, width))).astype(np.float32)
    alive = rng.random(k) < 0.8
    looked = np.flatnonzero(alive)
    offset = np.full(width, place, dtype=np.float32)
    wide = centroids.astype(np.float64) - place
    longhand = [
        min(
            (float(((wide[code] - wide[other]) ** 2).sum()) for other in looked if other != code),
            default=np.inf,
        )
        for code in looked
    ]
    found = distances_to_nearest(looked, centroids, offset, alive)
    np.testing.assert_allclose(found, longhand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.9])
def test_a_codeword_that_no_row_chooses_and_that_is_not_revived_stays_where_it_is(
    decay: float,
) -> None:
    """However long nobody chooses it: rows elsewhere without an error give it nothing to split."""
    centroids = np.float32([[[[0.3, -0.7], [0.1, 0.9]]]])
    state = TrainState.begin(Codebook("KM", "l2", np.zeros(2, np.float32), centroids))
    both = np.repeat(centroids[0, 0], 10, axis=0)
    state = take_step(state, tally_of(state, both), decay, seed=0, moves=True).state
    for _ in range(1100):
        state = take_step(state, tally_of(state, both[:10]), decay, seed=0, moves=True).state
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
    step = take_step(state, tally_of(state, vectors), 0.5, seed=0, moves=True)
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
    stepped = take_step(state, tally_of(state, vectors), 0.5, seed=0, moves=True).state.codebook
    assert (stepped.centroids[0, 0, 2:] == SURPLUS).all()
    np.testing.assert_allclose(np.linalg.norm(stepped.centroids[0, 0, :2], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("rounds", [1, 5])
def test_cosine_km_codewords_have_norm_one_after_a_step(rounds: int) -> None:
    rng = np.random.default_rng(14)
    vectors = (rng.standard_normal((2000, 5)) * rng.uniform(0.01, 50, (2000, 1))).astype(np.float32)
    state = start(vectors, 1, 32, metric="cosine")
    for _ in range(rounds):
        state = take_step(state, tally_of(state, vectors), 0.3, seed=0, moves=True).state
        norms = np.linalg.norm(state.codebook.centroids[0, 0].astype(np.float64), axis=1)
        np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_revived_cosine_codewords_have_norm_one_too() -> None:
    rng = np.random.default_rng(15)
    vectors = (np.float32([4, 0, 0]) + rng.standard_normal((2000, 3))).astype(np.float32)
    centroids = np.tile(np.float32([-1, 0, 0]), (6, 1))
    centroids[:3] = prepare_rows(vectors[:3], "cosine")[0]
    codebook = Codebook("KM", "cosine", np.zeros(3, np.float32), centroids[None, None])
    state = TrainState.begin(codebook)
    step = take_step(state, tally_of(state, vectors), 0.5, seed=0, moves=True)
    assert step.moved >= 2
    norms = np.linalg.norm(step.state.codebook.centroids[0, 0].astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_cosine_sub_codewords_are_not_renormalised() -> None:
    vectors = np.random.default_rng(16).standard_normal((1000, 6)).astype(np.float32)
    state = start(vectors, 2, 4, "PQ", "cosine")
    tally = tally_of(state, vectors)
    stepped = take_step(state, tally, 0.5, seed=0, moves=True).state.codebook.centroids[0]
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
        rng.random((m, k)),
        records,
        "averaging",
        1,
        12,
        history,
    )


def facts_of(state: TrainState) -> tuple[object, ...]:
    """Return all that a state holds, bit for bit."""
    codebook = state.codebook
    return (
        codebook.digest,
        *((a.shape, str(a.dtype), a.tobytes()) for a in (state.sums, state.weights, state.errors)),
        state.round,
        state.phase,
        state.averaging_from,
        state.probes,
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
    assert facts_of(read_state(bytes_of(state))) == facts_of(state)


def test_a_resumed_training_ends_with_the_same_bytes() -> None:
    vectors = np.random.default_rng(18).standard_normal((2000, 4)).astype(np.float32)
    state = start(vectors, 1, 16)
    half = state
    for batch in range(5):
        piece = vectors[batch * 300 : batch * 300 + 300]
        half = take_step(half, tally_of(half, piece), 0.5, seed=3, moves=True).state
    resumed = read_state(bytes_of(half))
    assert bytes_of(train(resumed, vectors, 300)) == bytes_of(train(half, vectors, 300))


def test_bytes_cut_short_raise() -> None:
    data = bytes_of(a_state())
    for length in [*range(0, len(data), 7), len(data) - 1]:
        with pytest.raises(Exception, match=r"."):
            read_state(data[:length])


def test_damaged_bytes_raise_or_do_no_harm() -> None:
    """A byte that is changed anywhere is noticed, unless it changes nothing of the state."""
    state = a_state()
    data, facts = bytes_of(state), facts_of(state)
    unnoticed = []
    for place in range(0, len(data), 3):
        for flip in (0x01, 0x04, 0x80):
            damaged = bytearray(data)
            damaged[place] ^= flip
            try:
                read = read_state(bytes(damaged))
            except Exception:
                continue
            if facts_of(read) != facts:
                unnoticed.append((place, flip))
    assert not unnoticed


def test_bytes_of_something_else_raise_what_the_docstring_names() -> None:
    for data in (b"", b"not a checkpoint", b"PK\x03\x04" + bytes(200), bytes(1000)):
        with pytest.raises((ValueError, KeyError, OSError)):
            read_state(data)


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

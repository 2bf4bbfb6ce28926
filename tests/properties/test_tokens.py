import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from affinity_service.tasks.tokens import PAD, TokenRows, bounded_batches

SEQUENCES = st.lists(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=12), max_size=20)


def rows_of(sequences):
    return TokenRows.of([([token for token, _ in own], [learned for _, learned in own]) for own in sequences])


@given(SEQUENCES)
def test_a_padded_batch_holds_exactly_the_sequences(sequences):
    rows = rows_of(sequences)
    batch = rows[np.arange(len(sequences))]
    assert batch.shape == rows.shape
    for (ids, goal), own in zip(batch, sequences, strict=True):
        real = ids != PAD
        assert not real[: len(ids) - len(own)].any(), "padding is on the left"
        assert ids[real].tolist() == [token for token, _ in own]
        assert goal[real].tolist() == [token if learned else PAD for token, learned in own]
        assert (goal[~real] == PAD).all()


@given(SEQUENCES, st.integers(1, 8), st.integers(1, 60), st.randoms(use_true_random=False))
def test_batches_hold_every_row_once_within_their_bounds(sequences, examples, tokens, random):
    rows = rows_of(sequences)
    chosen = np.array(random.sample(range(len(sequences)), random.randint(0, len(sequences))), np.int64)
    batches = list(bounded_batches(rows, chosen, examples, tokens))
    assert sorted(position for batch in batches for position in batch) == list(range(len(chosen)))
    for batch in batches:
        longest = rows.lengths[chosen[batch]].max()
        assert len(batch) <= examples
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert rows[chosen[batch]].shape == (len(batch), 2, longest)

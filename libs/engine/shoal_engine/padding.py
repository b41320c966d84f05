"""How many rows a step is padded to, so that no row's last bits depend on how many there are.

Owns two measured facts about float32 matrix products on a CPU (torch 2.13, MKL):

- products of fewer than 4 rows add up in another order than those of 4 or more (5e-7);
- with several threads the same happens to the rows beyond a multiple of 4, up to 11 rows, because
  a thread can be left with fewer than 4 of them.

Padding rows are computed and thrown away; they touch no KV. Products in int8 add up exactly and
need none (`quantise`), activations neither (`activations`).
"""

EXACT_ROW_COUNT = 4


def padded_row_count(count: int, threads: int, is_strict: bool) -> int:
    """Rows of float32 to compute for `count` real ones; at least `count`.

    Not strict: steps of 4 rows and more get bits that do not depend on their number; with one
    thread that costs nothing. Strict: every step does.
    """
    if is_strict or (threads > 1 and count >= EXACT_ROW_COUNT):
        return -(-count // EXACT_ROW_COUNT) * EXACT_ROW_COUNT
    return count

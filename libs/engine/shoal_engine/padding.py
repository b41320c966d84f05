"""How many rows a step is padded to, so that no row's last bits depend on how many there are.

Owns three measured facts about float32 on a CPU (torch 2.13, MKL):

- matrix products of fewer than 4 rows add up in another order than those of 4 or more (5e-7);
- with several threads the same happens to the rows beyond a multiple of 4, up to 11 rows, because
  a thread can be left with fewer than 4 of them;
- activations such as SiLU are computed 16 elements at a time and differ in the last bit for what
  is left over at the end of each thread's part.

Padding rows are computed and thrown away; they touch no KV.
"""

import math

EXACT_ROW_COUNT = 4
_VECTOR_ELEMENTS = 16


def padded_row_count(count: int, threads: int, activation_width: int, is_strict: bool) -> int:
    """Rows to compute for `count` real ones; at least `count`.

    activation_width: elements per row that go through an activation, 0 for none.
    Not strict: steps of 4 rows and more get bits that do not depend on their number; with one
    thread that costs nothing. Strict: every step does, whatever the widths and threads.
    """
    if is_strict:
        whole = _VECTOR_ELEMENTS * threads
        unit = math.lcm(EXACT_ROW_COUNT, whole // math.gcd(whole, activation_width))
    elif threads > 1 and count >= EXACT_ROW_COUNT:
        unit = EXACT_ROW_COUNT
    else:
        return count
    return -(-count // unit) * unit

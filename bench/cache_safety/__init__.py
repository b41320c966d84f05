"""Whether the semantic cache gives wrong answers: pairs of questions, and what becomes of them."""

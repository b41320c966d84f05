"""How well the gate tells a drafter's errors, and which threshold to take.

prompts ─▶ answers (of both models, with the draft's entropies) ─▶ cases ─▶ replay of the real gate
under every threshold ─▶ scores (AUROC, cost, APGR, knee) ─▶ choice ─▶ report, plot

Owns the arithmetic and the forms of files. Does not know how answers are collected, nor where
settings are written.
"""

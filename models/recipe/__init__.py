"""Makes the two demo models from a seed: corpus, tokenizer, training, export, measurement.

Owns everything between an empty folder and a Hugging Face checkpoint of the drafter or the
heavyweight. It reads no data but `tables.toml` and downloads nothing. It does not know the
fleet: nothing here is imported by a service, and nothing of the services is imported here.

Run it from `models/`: `python -m recipe.make --model all`.
"""

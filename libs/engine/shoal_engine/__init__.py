"""Runs a contiguous range of layers of a Hugging Face checkpoint, exactly, on ragged batches.

Owns: the shape of a model, which tensors a layer range needs, loading them from untrusted
folders, KV blocks, attention over them, the forward pass of a stage, and sampling.

Does not know: text, tokenisers, requests, networks, other stages, or who calls it. It holds no
threads: one compute thread calls a `Stage`, synchronously.

| module      | holds                                                                    |
|-------------|--------------------------------------------------------------------------|
| shape       | `ModelShape`, `LayerRange`, `tensors_needed` (no torch)                  |
| trust       | what a checkpoint folder may contain (no torch)                          |
| cache_spec  | per layer, what kind of state it keeps (no torch)                        |
| blocks      | `BlockPool`, `SequenceKv`: who holds which KV block (no torch)           |
| kv_store    | the tensors behind the blocks                                            |
| step_plan   | what one ragged step reads and writes, computed once for all layers      |
| attention   | the attention function that model definitions of `transformers` call     |
| padding     | how many rows a step is padded to, and why (no torch)                    |
| activations | SiLU and GELU whose last bits do not depend on row counts                |
| quantise    | `Int8Linear`: int8 linear layers on a CPU, each row by itself            |
| smoothing   | evens out channels before weights become int8, from weights alone        |
| filling     | gives a model definition its weights: checks, parameters, int8 layers    |
| gguf_blocks | tensors in the blocks of GGUF files as numbers                           |
| loading     | `FolderSource`, `StageOptions`, `load_stage`                             |
| stage       | `Row`, `StageBatch`, `Stage.forward`                                     |
| sampling    | `SamplingSpec`, `SamplingState`, `sample`                                |
| grammar     | `GrammarSpec`, `TokenTable`, `compile_grammar`, `GrammarState` (no torch) |
| grammar_check | a process that judges strangers' grammars (no torch)                   |
| testing     | tiny random checkpoints and in-process chains of stages, for tests       |
"""

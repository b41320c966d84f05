"""The router: which machines serve a generation.

Owns: the view of the fleet, built from beats alone; the few pipelines of each model; the queue in
front of them; plans, and new plans after a lost stage.

Does not know: text, tokens, HTTP, tensors. It is never on the token path: a driver holds one
`Plan` stream open for the life of a generation, and closing it, in any way, is the release.

A beat's way: `beats` (bytes to message, checked) -> `fleet_view` (who lives) -> `pipeline` (pure:
engines to chains). A request's way: `rpc` -> `planner` (which model, which error) -> `admission`
(slots and queue) -> `rpc`. A model's way: `announcements` (what can be loaded) -> `placement`
(pure: where) -> `loading` (ordered, watched, remembered when it failed) -> the next beats.
"""

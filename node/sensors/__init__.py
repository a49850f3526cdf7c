"""Reading the device: each module reads one kind of signal, through `tree.Tree`, and answers with `reading.Reading`.

A reader never raises on what the device holds: garbage, nothing, or a refusal become *unknown*, with the reason.
"""

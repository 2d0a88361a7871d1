"""Statistics on sketches: evidence, effect sizes, detectors, and which scope explains a drift."""

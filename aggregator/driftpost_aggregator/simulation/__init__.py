"""A fleet that is played: real descriptions, sketches and wire format, no models and no devices."""

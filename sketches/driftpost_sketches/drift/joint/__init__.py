"""Changes that no single stream shows: sums of features of several streams at once, and the test on them."""

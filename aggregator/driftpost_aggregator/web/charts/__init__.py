"""Charts as plotly figures, which the browser draws with plotly's own script.

They are written as the plain data that plotly's figure classes would turn into JSON: building those classes
validates every value anew for each look (a third of a second for a device's small multiples, against a few
milliseconds). The tests do build them, so a figure that plotly does not know is found there.
"""

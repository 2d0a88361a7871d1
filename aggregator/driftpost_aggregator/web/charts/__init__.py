"""Charts as plotly figures; the browser draws them with the same plotly's script."""

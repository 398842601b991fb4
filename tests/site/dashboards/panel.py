"""A Panel dashboard: a slider whose square is computed on the server, which shows that the websocket works."""

import panel as pn

slider = pn.widgets.IntSlider(name="Number", start=0, end=10, value=3)
pn.Column("# Panel example", slider, pn.bind(lambda number: f"Square: {number**2}", slider)).servable(
    title="Panel example"
)

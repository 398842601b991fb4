"""A Dash dashboard: a slider whose square is computed by a request to the server."""

from dash import Dash, Input, Output, dcc, html


def square(number: int) -> str:
    """What the page shows below the slider."""
    return f"Square: {number**2}"


app = Dash("dash_example", title="Dash example")
app.layout = html.Div([html.H1("Dash example"), dcc.Slider(0, 10, 1, value=3, id="number"), html.P(id="square")])
app.callback(Output("square", "children"), Input("number", "value"))(square)

"""A Streamlit dashboard: its whole content comes over the websocket."""

import streamlit as st

st.set_page_config(page_title="Streamlit example")
st.title("Streamlit example")
number = st.slider("Number", 0, 10, 3)
st.write(f"Square: {number**2}")

"""The page's theme, and its styles and scripts, which stand in files of their own under static/."""

from __future__ import annotations

import gradio as gr

from studio.components import static

# Fonts of the person's own machine: nothing is fetched from another host.
THEME = gr.themes.Soft(
    primary_hue="teal",
    secondary_hue="teal",
    neutral_hue="slate",
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
).set(
    block_title_background_fill="transparent",
    block_title_padding="0",
    block_title_text_color="*body_text_color",
    block_label_background_fill="transparent",
    block_label_text_color="*body_text_color_subdued",
    input_border_width="1px",
    input_border_color="*border_color_primary",
    input_shadow="none",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    checkbox_border_width="1px",
    checkbox_border_color="*neutral_400",
    checkbox_label_border_width="1px",
    checkbox_label_shadow="none",
    button_secondary_border_color="*border_color_primary",
    button_border_width="1px",
)


CSS = static("studio.css")
OPEN = static("open.js")  # Ctrl+Enter creates the video; a server that has ended is told
CONTINUE_PLAYING = static("player.js")  # from the growing video to the finished one
DRAG_KEYS = static("timeline.js")  # in the picture of the curves

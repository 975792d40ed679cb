"""The page's theme, styles and keyboard shortcut."""

from __future__ import annotations

import gradio as gr

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
    checkbox_border_width="1px",
    checkbox_border_color="*neutral_400",
    checkbox_label_border_width="1px",
    checkbox_label_shadow="none",
    button_secondary_border_color="*border_color_primary",
    button_border_width="1px",
)


CSS = """
.gradio-container { max-width: 1240px !important; margin: auto; overflow: clip !important; }
#tabs { min-width: min(1100px, 88vw); }  /* or a tab of few words pulls the page together */
.card { background: var(--block-background-fill); border: 1px solid var(--border-color-primary); border-radius: 12px;
        padding: 0.9rem 1rem 1rem; gap: 0.6rem; margin-bottom: 0.4rem; }
.card h3 { margin: 0 0 0.2rem; }
.card .block { box-shadow: none; border-width: 0; padding-left: 0; padding-right: 0; }
.card .form { box-shadow: none; border-width: 0; background: none; gap: 0.6rem; }
#heading h1 { margin: 0.4rem 0 0; }
#heading p { margin: 0.1rem 0 0.4rem; color: var(--body-text-color-subdued); }
.stage { position: sticky; top: 0.5rem; align-self: flex-start; }
.tabs, .tabitem, .tabitem > div, .row:has(> .stage) { overflow: visible !important; }  /* or the stage can't stay in sight */
input[type=range]:focus-visible { outline: 2px solid var(--primary-600); outline-offset: 4px; }
.progress-text { margin: 0 0 0.35rem; min-height: 1.5em; }
.progress-text.failed { color: #b91c1c; font-weight: 600; }
.progress { height: 0.6rem; border-radius: 0.3rem; background: var(--border-color-primary); overflow: hidden; }
.progress > div { height: 100%; background: var(--primary-500); transition: width 0.4s; }
#live video { width: 100%; border-radius: 8px; }
.unseen { display: none !important; }
#curves { position: relative; cursor: ew-resize; }
.key-line { display: none; position: absolute; top: 0; bottom: 0; width: 2px; pointer-events: none;
            background: var(--primary-600); }
details.fine > summary { cursor: pointer; padding: 0.35rem 0.6rem; color: #15803d; font-weight: 600; }
.note { color: var(--body-text-color-subdued); }
table.report { width: 100%; border-collapse: collapse; border: none !important; }
table.report td, table.report th { border: none !important; padding: 0.35rem 0.6rem; text-align: left; }
table.report tr { border: none !important; border-bottom: 1px solid var(--border-color-primary) !important; }
table.report td.pass { color: #15803d; } table.report td.warn { color: #b45309; } table.report td.fail { color: #b91c1c; }
table.report td.pass, table.report td.warn, table.report td.fail { font-weight: 600; white-space: nowrap; }
"""


# Ctrl and Enter make the video from wherever one is: by the Tab key the button is far from the sliders.
SHORTCUT = """() => document.addEventListener('keydown', (event) => {
  const create = document.querySelector('#create');
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey)) return;
  if (create && create.offsetParent && !create.disabled) create.click();
})"""

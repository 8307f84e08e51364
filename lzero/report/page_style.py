"""Look of the report's page, on light and on dark screens."""

STYLE = """
:root { color-scheme: light dark;
  --back: #fff; --text: #1a1a1a; --dim: #5c5c5c; --line: #ddd; --link: #0b5cad; --head: #f5f5f5; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --text: #e6e6e6; --dim: #a3a3a3; --line: #383b42; --link: #7db7f0; --head: #22252b; }
  img { filter: brightness(0.9); }
}
html { scroll-behavior: smooth; }
body { margin: 0 auto; padding: 1.5rem 2rem 4rem; max-width: 96rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line); }
header p, caption, figcaption, summary { color: var(--dim); }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { padding: 0.75rem 1rem; background: var(--head); border-radius: 6px; columns: 22rem; font-size: 0.9rem; }
nav ul { list-style: none; margin: 0; padding: 0; }
nav > ul > li { break-inside: avoid; font-weight: 600; margin-bottom: 0.35rem; }
nav ul ul { padding-left: 1rem; font-weight: 400; }
figure { margin: 1.25rem 0 2rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; }
figcaption { max-width: 80ch; margin-top: 0.5rem; font-size: 0.9rem; }
figcaption b { color: var(--text); }
code { font-size: 0.85em; }
.table { overflow-x: auto; margin: 0.75rem 0 1.25rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.2rem 0.9rem 0.2rem 0; text-align: right; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--dim); font-weight: 600; }
.text { text-align: left; overflow-wrap: anywhere; }
details { margin: 0.5rem 0; }
summary { cursor: pointer; }
@media print { nav { display: none; } figure { break-inside: avoid; } }
"""

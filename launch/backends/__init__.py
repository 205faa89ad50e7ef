"""One engine a file: `render(spec) -> Rendered`."""

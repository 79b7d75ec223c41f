"""`medunet config`."""

import typer

app = typer.Typer()

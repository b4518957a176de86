"""`neuromeld recipe`: a recipe to own, and the schema that editors check recipes by."""

import json
from typing import Annotated

import typer

from neuromeld.errors import UserInputError
from neuromeld.planning.recipe import RECIPES, load_recipe, recipe_model


def recipe_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A recipe that ships, or a YAML file.", show_default=False)
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes.")] = False,
) -> None:
    """Print a recipe as YAML, to edit and pass by --recipe, or the JSON schema of recipes.

    In an editor with a YAML language server, a first line `# yaml-language-server: $schema=recipe.schema.json` checks a
    recipe against the file that `neuromeld recipe --schema > recipe.schema.json` makes.
    """
    if schema == (name is not None):
        raise UserInputError(f"give the name of a recipe, or --schema. Recipes: {', '.join(RECIPES)}")
    if schema:
        typer.echo(json.dumps(recipe_model().model_json_schema(), indent=2))
    else:
        typer.echo(load_recipe(str(name)).to_yaml(), nl=False)

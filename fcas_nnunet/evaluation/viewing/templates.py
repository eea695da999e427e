"""Load the report's and the reading's templates: each has its own folder, and both share one script."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Templates in the folder `pages` of a package; those that it lacks are looked for in this package's."""
    loaders = [PackageLoader(package, "pages"), PackageLoader("fcas_nnunet.evaluation.viewing", "pages")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

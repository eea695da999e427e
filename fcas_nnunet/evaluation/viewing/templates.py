"""How the report's and the reading's templates are read: each has its own folder, and both share one script."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(package: str) -> Environment:
    """Templates in the folder `pages` of a package; what is not there is looked for in that of this one."""
    loaders = [PackageLoader(package, "pages"), PackageLoader("fcas_nnunet.evaluation.viewing", "pages")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

"""What proves the claims: the benchmark, the figures, the evaluation. Run as `python -m reproduce.<name>`."""

from command import InputError, printable


def check_model(name: str | None) -> None:
    """Raises InputError where `--model` is neither a name of `models.MODELS` nor a Python file."""
    import models  # here: it loads TensorFlow

    if name and name not in models.MODELS and not name.endswith(".py"):
        raise InputError(f"there is no --model {printable(name)}; choose from {', '.join(models.MODELS)} or FILE.py")

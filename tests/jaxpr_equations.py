"""Walks through a traced program, its inner programs included."""


def equations(jaxpr):
    """All equations of a program with what surrounds each."""
    for number, equation in enumerate(jaxpr.eqns):
        yield jaxpr, number, equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)

"""The one exception that means: the person asked for something that cannot be done."""


class HeadwayError(ValueError):
    """A wrong input or an impossible request, told in one sentence.

    The sentence names the field, the value and what is accepted. The command line prints it and
    exits with code 2; everything else that is raised is a defect of ours.
    """

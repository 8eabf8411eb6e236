"""What is said in the same words wherever a session, its result or a demonstration is shown."""

HONEST = (
    "collabsecure hides who edited; it does not hide what was edited from someone who can guess it and test the guess\n"
    "against the sums or the published model."
)

"""The shelf camera: a story that shows the daemon at work on a model that is really trained and really fails.

`acts` is the script, `camera` takes the pictures, `committee` names the products, `server` is the model server (a
process of its own that knows nothing of the daemon but the address to post its events to), `play` starts everything
and tells what the daemon says. scikit-learn is imported by the server alone, rich by `play` alone.
"""

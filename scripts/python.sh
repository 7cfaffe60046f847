# `python`: the interpreter that PYTHON names (default: python). Sourced by the others before they change folder, for a
# path is seen from where they were called. It is not resolved further: a virtual environment's python is a link.
python=${PYTHON:-python}
if [[ $python == [!/]*/* ]]; then python=$PWD/$python; fi

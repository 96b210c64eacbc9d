"""The compiled data plane: declarations and built modules of `ext/*.pyx`.

Holds no Python code and re-exports nothing.  If a module here can't be imported, it is not built:
run `python setup.py build_ext --inplace`.  There is no slower replacement on purpose.
"""

"""The command `shadowmesh-client`: one file per verb, imported only when that verb runs."""

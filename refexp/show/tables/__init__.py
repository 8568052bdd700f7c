"""Tables over many runs.

Steps: find the runs (`runs`, `settings`). Split them by the settings in which they differ (`apart`). Lay out one table
per metric (`table`, `notes`). Add comparisons and published figures (`compare`, `published`). Write the files (`write`,
`plots`, `page`). `choose` selects the tables to make. `summary` is the command.
"""

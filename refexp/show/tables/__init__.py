"""Tables over runs: find them (`runs`, `settings`), see what tells them apart and split (`apart`), lay out a table a
metric (`table`, `notes`), put comparisons and published figures beside (`compare`, `published`), and write it all down
(`write`, `plots`, `page`). `choose` makes the tables that were asked for; `refexp.show.tables.summary` is the command.
"""

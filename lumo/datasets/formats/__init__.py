"""Published formats: one small file a dataset, each with `read(files, left_out)`, which gives the lines that `lumo adopt` takes.

A reader opens what the dataset's authors publish (their CSV, JSON, TSV, parquet or tar) and finds the media that lie beside it; it
downloads nothing.
"""

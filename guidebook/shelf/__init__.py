"""The lines of the catalogue, by the kind of model; `guidebook.catalogue` puts them in one list."""

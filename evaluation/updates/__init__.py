"""The study of update policies: what models lose by age, what it costs to keep them young, and who decides that best."""

"""Files that are complete or absent, and folders of results.

- `files`: atomic writes and JSON
- `tensors`: safetensors files
- `runs`: a folder of results whose finished steps are loaded, not repeated
- `arrays`: tensors larger than memory
- `validation`: plain data checked against declared types; finite numbers, shapes and seeds
- `global_state`: imports that leave the process as it was
"""

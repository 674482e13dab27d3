"""Files that are whole or absent, and folders of results.

- `files`: atomic writes, JSON and safetensors
- `runs`: a folder whose finished steps are kept
- `arrays`: tensors larger than memory
"""

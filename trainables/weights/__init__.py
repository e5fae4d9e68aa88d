"""The packaged backbone `vit_glyphs`: its weights, its card (JSON) and the script that makes both again."""

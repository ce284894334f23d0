"""What training and fine-tuning have in common: data sets, batches, masking, losses and scores.

checkpoint = load_checkpoint(folder)
examples = read_examples(Path("train.jsonl"), checkpoint.vocabulary.encode)
for indices in length_batches([one.source_len for one in examples], batch_frames=20_000, seed=epoch):
    batch = collate([examples[i] for i in indices], checkpoint.frontend, checkpoint.vocabulary, rng)
    features = mask_features(batch.features, batch.frames, strength=1.0)
    logits = checkpoint.network(features, batch.queries, batch.frames)
    loss = text_loss(logits, batch.frames, batch.targets, batch.target_lengths)
    loss = loss + tag_losses(logits, batch.tags).sum()
"""

// Gradio's audio input refuses whatever the browser does not call audio, before the server has seen it.
// The server reads video files and wrong extensions as well, and says clearly what it cannot read.
(() => {
  const INPUT = '#sv-audio input[type="file"]';
  const isAudio = (file) => file.type.startsWith("audio/");
  const asAudio = (file) => (isAudio(file) ? file : new File([file], file.name, { type: "audio/mp4" }));

  const give = (input, files) => {
    const transfer = new DataTransfer();
    for (const file of files) transfer.items.add(asAudio(file));
    input.files = transfer.files;
  };

  const onChange = (event) => {
    const input = event.target;
    if (input.matches?.(INPUT) && ![...input.files].every(isAudio)) give(input, [...input.files]);
  };

  const onDrop = (event) => {
    const input = event.target.closest?.("#sv-audio")?.querySelector('input[type="file"]');
    const files = [...(event.dataTransfer?.files ?? [])];
    if (!input || files.every(isAudio)) return;
    event.preventDefault();
    event.stopPropagation();
    give(input, files.slice(0, 1));
    event.target.dispatchEvent(new DragEvent("dragleave", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const offerVideo = (event) => {
    const input = event.target.closest?.("#sv-audio")?.querySelector('input[type="file"]');
    if (input) input.accept = "audio/*,video/*";
  };

  document.addEventListener("change", onChange, true);
  document.addEventListener("drop", onDrop, true);
  document.addEventListener("click", offerVideo, true);
})();

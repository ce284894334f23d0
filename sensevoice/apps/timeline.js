// Runs once in the timeline's gr.HTML component: a click on anything with data-start plays that stretch.
const audio = new Audio();
let playing = null;

const fileUrl = (path) => {
  const { root, api_prefix: prefix } = window.gradio_config;
  return `${root}${prefix}/file=${path.split("/").map(encodeURIComponent).join("/")}`;
};

const linesLike = (target) =>
  element.querySelectorAll(`[data-start="${target.dataset.start}"][data-end="${target.dataset.end}"]`);

const show = (isPlaying, fraction) => {
  for (const line of linesLike(playing)) {
    line.classList.toggle("sv-playing", isPlaying);
    line.setAttribute("aria-pressed", String(isPlaying));
    line.style.setProperty("--sv-heard", `${100 * fraction}%`);
  }
};

const stop = () => {
  audio.pause();
  if (playing) show(false, 0);
  playing = null;
};

const follow = () => {
  if (!playing) return;
  const start = Number(playing.dataset.start);
  const end = Number(playing.dataset.end);
  if (audio.ended || audio.currentTime >= end) return stop();
  show(true, Math.max(0, (audio.currentTime - start) / (end - start)));
  requestAnimationFrame(follow);
};

const unplayable = () => {
  stop();
  element.querySelector(".sv-unplayable")?.removeAttribute("hidden");
};

const play = async (target) => {
  const source = fileUrl(element.querySelector(".sv-timeline").dataset.audio);
  if (audio.getAttribute("src") !== source) audio.src = source;
  playing = target;
  audio.currentTime = Number(target.dataset.start);
  show(true, 0);
  try {
    await audio.play();
    requestAnimationFrame(follow);
  } catch (error) {
    if (error.name === "NotSupportedError") unplayable();
  }
};

element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-start]");
  if (!target) return;
  const same = playing && linesLike(playing)[0] === linesLike(target)[0];
  stop();
  if (same) return;
  if (target.classList.contains("sv-mark")) {
    linesLike(target)[1]?.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }
  play(target);
});

audio.addEventListener("error", () => playing && unplayable());
watch("value", stop);
window.svAudio = audio; // for tests

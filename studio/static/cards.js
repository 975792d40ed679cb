// Draws cards with pictures into `element`, of which one can be chosen. What stands on them is text, never HTML.
// items: [{id, title, about, poster, video, sign}]; value: the id of the one that is chosen, or null.
const root = element.querySelector('.cards');
const words = props.words[navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en'];
const below = new URL('.', document.baseURI).pathname;
const still = matchMedia('(prefers-reduced-motion: reduce)').matches;
let known = '';

const player = (item) => {
  const video = document.createElement('video');
  Object.assign(video, { muted: true, loop: true, playsInline: true, preload: 'none', poster: item.poster || '' });
  video.src = below + item.video;
  video.tabIndex = -1;
  video.disableRemotePlayback = true;
  return video;
};
const card = (item) => {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'card-button';
  button.dataset.id = item.id;
  button.title = [item.title, item.about].filter(Boolean).join('\n');
  button.setAttribute('role', 'radio');
  let shown = document.createElement(item.poster ? 'img' : 'span');
  if (item.poster) Object.assign(shown, { src: item.poster, alt: '' });
  else Object.assign(shown, { className: 'card-empty', textContent: item.sign ?? '' });
  if (item.video) {
    shown = player(item);
    const play = () => { if (!still) shown.play().catch(() => {}); };
    button.addEventListener('pointerenter', play);
    button.addEventListener('focus', play);
    for (const end of ['pointerleave', 'blur'])
      button.addEventListener(end, () => { if (!props.playing && props.value !== item.id) shown.pause(); });
  }
  const title = document.createElement('b'), about = document.createElement('small');
  title.textContent = item.title;
  about.textContent = item.about ?? '';
  button.append(shown, title, about);
  button.addEventListener('click', () => choose(item.id));
  return button;
};
const choose = (id) => {
  props.value = id;
  mark();
  trigger('input');
};
const mark = () => {
  const buttons = [...root.querySelectorAll('.card-button')];
  const chosen = buttons.find((button) => button.dataset.id === props.value);
  for (const button of buttons) {
    button.setAttribute('aria-checked', button === chosen);
    button.tabIndex = button === (chosen ?? buttons[0]) ? 0 : -1;
    const video = button.querySelector('video');
    if (!video) continue;
    if (!still && (props.playing || button === chosen)) video.play().catch(() => {});
    else video.pause();
  }
};
root.addEventListener('keydown', (event) => {
  const buttons = [...root.querySelectorAll('.card-button')], now = buttons.indexOf(document.activeElement);
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (now < 0 || !step) return;
  event.preventDefault();
  buttons[(now + step + buttons.length) % buttons.length].focus();
});
const draw = () => {
  const items = JSON.stringify(props.items);
  if (props.items && items !== known) {
    known = items;
    root.setAttribute('role', 'radiogroup');
    root.setAttribute('aria-label', words[props.title]);
    const empty = document.createElement('p');
    empty.textContent = words[props.empty] ?? '';
    root.replaceChildren(...(props.items.length ? props.items.map(card) : [empty]));
  }
  mark();
  const chosen = root.querySelector('[aria-checked=true]');
  if (chosen) root.scrollLeft = chosen.offsetLeft - root.offsetLeft - (root.clientWidth - chosen.clientWidth) / 2;
};
draw();
watch(['value', 'items'], draw);

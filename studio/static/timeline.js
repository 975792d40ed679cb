() => {
  // Where in the picture the pointer went down and came up, as shares of its width; a line follows it.
  const picture = document.querySelector('#curves');
  if (!picture || picture.dataset.drags) return;
  picture.dataset.drags = 'yes';
  picture.style.touchAction = 'none';
  const line = Object.assign(document.createElement('div'), { className: 'key-line' });
  picture.append(line);
  let from = null;
  const place = (event) => {
    const image = picture.querySelector('img'), box = image.getBoundingClientRect();
    const width = Math.min(box.width, box.height * image.naturalWidth / image.naturalHeight);
    return (event.clientX - box.left - (box.width - width) / 2) / width;
  };
  const follow = (event) => {
    line.style.display = from === null ? 'none' : 'block';
    line.style.left = `${event.clientX - picture.getBoundingClientRect().left}px`;
  };
  picture.addEventListener('pointerdown', (event) => {
    const image = picture.querySelector('img'), box = image && image.getBoundingClientRect();
    if (!box || event.clientY < box.top || event.clientY > box.bottom) return;
    event.preventDefault();
    from = place(event);
    follow(event);
  });
  window.addEventListener('pointermove', (event) => { if (from !== null) follow(event); });
  window.addEventListener('pointerup', (event) => {
    if (from === null) return;
    const drag = document.querySelector('#key-drag textarea');
    drag.value = `${from} ${place(event)}`;
    drag.dispatchEvent(new Event('input', { bubbles: true }));
    from = null;
    follow(event);
  });
}
